// Asks the running mount of a site. Called by the CLI and the uploader; each request has its own connection.

import BlockIO
import Foundation
import Glibc

package struct ControlClient: Sendable {
    private let path: String

    package init(site: SiteDirectory) { path = site.controlSocketPath }

    package init(socketPath: String) { path = socketPath }

    /// The mount's reply. Throws `mountAway` when no mount answers: then the log folder itself is the truth.
    package func ask(_ request: ControlRequest, timeoutSeconds: Int = 30) throws(SiteError) -> ControlReply {
        var stream = LineStream(try connect(timeoutSeconds: timeoutSeconds), lineBytesMax: controlReplyBytesMax)
        do {
            try stream.send(Array(try JSONEncoder().encode(request)))
            guard let line = try stream.next() else { throw LineStream.Failure.ended }
            return try JSONDecoder().decode(ControlReply.self, from: Data(line))
        } catch LineStream.Failure.timedOut {
            throw SiteError(.controlTimedOut, "the mount did not answer within \(timeoutSeconds) s", remedy: "farshore status; is the worker in D state? see farshore doctor")
        } catch LineStream.Failure.ended {
            throw Self.away("the mount ended before it answered")
        } catch LineStream.Failure.broken(let code) where code == EPIPE || code == ECONNRESET {
            throw Self.away("the mount ended before it answered")
        } catch {
            throw SiteError(.controlGarbled, "the mount's answer makes no sense: \(error)", remedy: "unmount and mount again with one version of farshore")
        }
    }

    /// The reply, with a refusal turned into an error.
    package func demand(_ request: ControlRequest, timeoutSeconds: Int = 30) throws(SiteError) -> ControlReply {
        let reply = try ask(request, timeoutSeconds: timeoutSeconds)
        if case .refused(let refusal) = reply {
            throw SiteError(refusal.reason == .noSuchDisk ? .diskNotFound : .refused, refusal.message, remedy: refusal.remedy)
        }
        return reply
    }

    private func connect(timeoutSeconds: Int) throws(SiteError) -> Descriptor {
        do throws(SystemError) {
            let socket = try SocketAddress.makeStream(timeoutSeconds: timeoutSeconds)
            guard try SocketAddress(path).connect(socket.raw) == 0 else {
                throw SystemError(errno: errno, operation: "connect", path: path)
            }
            return socket
        } catch where error.errno == ENOENT || error.errno == ECONNREFUSED {
            throw Self.away("no mount is running on this site")
        } catch {
            throw SiteError(.system, error.description, remedy: "check the permissions of the site's run folder")
        }
    }

    private static func away(_ message: String) -> SiteError {
        SiteError(.mountAway, message, remedy: "farshore mount DIR")
    }
}
