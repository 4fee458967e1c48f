// HTTP to one endpoint: connections, deadlines, TLS. Turns every way an exchange can fail into a StoreError; what the
// target answers is left to S3Errors and AzureErrors. Blocks the calling thread; the event loops of async-http-client do the I/O.

import AsyncHTTPClient
import Glibc
import NIOCore
import NIOHTTP1
import NIOPosix
import NIOSSL

/// How long a request may take. A hung server ends in `.timedOut`, never in a hang.
package struct TargetDeadlines: Sendable {
    package var connectSeconds = 10
    /// Without a byte in either direction.
    package var idleSeconds = 30
    /// Of the whole request, plus its bytes at the slowest rate that is still waited for.
    package var requestSeconds = 60
    package var slowestBytesPerSecond = 64 << 10

    package init() {}

    func total(bytes: Int) -> Int { requestSeconds + bytes / slowestBytesPerSecond }
}

final class TargetConnection: Sendable {
    private let endpoint: TargetEndpoint
    private let deadlines: TargetDeadlines
    private let client: HTTPClient

    init(endpoint: TargetEndpoint, authoritiesFile: String?, parallelism: Int, deadlines: TargetDeadlines) throws(StoreError) {
        self.endpoint = endpoint
        self.deadlines = deadlines
        var configuration = HTTPClient.Configuration()
        configuration.tlsConfiguration = try Self.trust(authoritiesFile)
        // The answer to a redirect would go to another host with a signature that is not for it.
        configuration.redirectConfiguration = .disallow
        configuration.httpVersion = .http1Only
        configuration.connectionPool.concurrentHTTP1ConnectionsPerHostSoftLimit = parallelism
        configuration.connectionPool.retryConnectionEstablishment = false
        // Below the minute or so after which servers close: a request on a connection that just died must be repeated.
        configuration.connectionPool.idleTimeout = .seconds(20)
        configuration.timeout = .init(
            connect: .seconds(Int64(deadlines.connectSeconds)), read: .seconds(Int64(deadlines.idleSeconds)), write: .seconds(Int64(deadlines.idleSeconds)))
        client = HTTPClient(eventLoopGroupProvider: .singleton, configuration: configuration)
    }

    deinit {
        do {
            try client.syncShutdown()
        } catch {
            // Nothing is in flight here, and whatever a connection says while it closes concerns nobody.
        }
    }

    private static func trust(_ authoritiesFile: String?) throws(StoreError) -> TLSConfiguration {
        var configuration = TLSConfiguration.makeClientConfiguration()
        guard let authoritiesFile else { return configuration }
        do {
            let authorities = try NIOSSLCertificate.fromPEMFile(authoritiesFile)
            configuration.trustRoots = .certificates(authorities)
        } catch {
            throw StoreError(.badLocation, "ca=\(authoritiesFile) cannot be read as PEM certificates", try: "name a readable file with BEGIN CERTIFICATE blocks")
        }
        return configuration
    }

    func exchange(_ request: TargetRequest) throws(StoreError) -> TargetAnswer {
        do {
            var headers = HTTPHeaders(request.headers.map { ($0.name, $0.value) })
            headers.add(name: "user-agent", value: "farshore")
            let hasBody = request.method == .put || request.method == .post
            let sent = try HTTPClient.Request(
                url: endpoint.description + request.target, method: HTTPMethod(rawValue: request.method.rawValue), headers: headers,
                body: hasBody ? .byteBuffer(ByteBuffer(bytes: request.body)) : nil)
            // How large an object is that is read whole shows only in the answer: few are larger than this.
            let total = deadlines.total(bytes: request.body.count + min(request.answerBytesMax, ObjectLimits.conditionalBytesMax))
            let accumulator = ResponseAccumulator(request: sent, maxBodySize: request.answerBytesMax)
            let response = try client.execute(request: sent, delegate: accumulator, deadline: .now() + .seconds(Int64(total))).wait()
            return try checked(response, request)
        } catch let error as StoreError {
            throw error
        } catch {
            throw failure(error)
        }
    }

    /// A connection that ended early must not pass as a short object.
    private func checked(_ response: HTTPClient.Response, _ request: TargetRequest) throws(StoreError) -> TargetAnswer {
        let body = response.body.map { Array($0.readableBytesView) } ?? []
        var headers: [String: String] = [:]
        for (name, value) in response.headers where headers[name.lowercased()] == nil { headers[name.lowercased()] = value }
        if request.method != .head, let stated = headers["content-length"], Int(stated) != body.count {
            throw StoreError(.corruptResponse, "\(endpoint): the answer has \(body.count) bytes but states \(stated)", try: "retry; if it stays, look at proxies on the way")
        }
        return TargetAnswer(status: Int(response.status.code), headers: headers, body: body)
    }

    private func failure(_ error: any Error) -> StoreError {
        switch error {
        case let error as HTTPClientError where Self.timeouts.contains(error):
            return StoreError(.timedOut, "\(endpoint) did not answer in time (\(error.shortDescription))", try: "look whether the target is overloaded or the network is slow")
        case let error as HTTPClientError where error == .remoteConnectionClosed:
            return StoreError(.unreachable, "\(endpoint) closed the connection before its answer was complete", try: "retry; if it stays, look at the target's log")
        case is ResponseAccumulator.ResponseTooBigError:
            return StoreError(.corruptResponse, "\(endpoint) answers with more bytes than were asked for", try: "look at proxies on the way")
        case let error as NIOSSLError:
            return tlsFailure("\(error)")
        case is HTTPParserError, is NIOSSLExtraError:
            return tlsOrParserFailure(error)
        case let error as NIOConnectionError:
            return unreachable(Self.reason(error))
        case let error as IOError:
            return unreachable(Self.reason(error))
        default:
            return unreachable("\(error)")
        }
    }

    private static let timeouts: [HTTPClientError] = [
        .readTimeout, .writeTimeout, .connectTimeout, .tlsHandshakeTimeout, .deadlineExceeded, .getConnectionFromPoolTimeout,
    ]

    private static func reason(_ error: NIOConnectionError) -> String {
        if let failed = error.connectionErrors.first { return (failed.error as? IOError).map(reason) ?? "\(failed.error)" }
        return "the name \(error.host) cannot be resolved"
    }

    /// The description of the error names the call too, in its own way.
    private static func reason(_ error: IOError) -> String { String(cString: strerror(error.errnoCode)) }

    private func unreachable(_ reason: String) -> StoreError {
        StoreError(.unreachable, "\(endpoint) cannot be reached: \(reason)", try: "check the endpoint in the vault URL, the network, and that the target runs")
    }

    private func tlsFailure(_ reason: String) -> StoreError {
        guard reason.contains("CERTIFICATE_VERIFY_FAILED") || reason.contains("unableToValidateCertificate") else {
            return unreachable("TLS failed (\(reason))")
        }
        return StoreError(
            .untrusted, "\(endpoint): the target's certificate cannot be trusted", try: "add ca=FILE with the authority that signed it, and check its names and dates")
    }

    private func tlsOrParserFailure(_ error: any Error) -> StoreError {
        if error is NIOSSLExtraError {
            return StoreError(.untrusted, "\(endpoint): the target's certificate is for another name", try: "use the name in the certificate as endpoint")
        }
        return StoreError(.corruptResponse, "\(endpoint): the answer is no complete HTTP (\(error))", try: "check that the endpoint in the vault URL is the target's, with http or https as it speaks")
    }
}
