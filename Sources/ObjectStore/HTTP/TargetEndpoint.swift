// Where a target that speaks HTTP listens, as `endpoint=` in its URL says.

package struct TargetEndpoint: Equatable, Sendable, CustomStringConvertible {
    package let usesTLS: Bool
    /// A name, an IPv4 address, or an IPv6 address in brackets.
    package let host: String
    package let port: Int?

    init(_ text: String, of url: String) throws(StoreError) {
        let rest: Substring
        if text.hasPrefix("https://") {
            (usesTLS, rest) = (true, text.dropFirst(8))
        } else if text.hasPrefix("http://") {
            (usesTLS, rest) = (false, text.dropFirst(7))
        } else {
            throw StoreLocation.refusal(url, "the endpoint must start with http:// or https://")
        }
        let authority = rest.last == "/" ? rest.dropLast() : rest
        let colon = authority.lastIndex(of: ":").flatMap { authority[$0...].contains("]") ? nil : $0 }
        host = String(authority[..<(colon ?? authority.endIndex)])
        port = colon.flatMap { Int(authority[authority.index(after: $0)...]) }
        let isPortRight = colon == nil || port.map((1...65535).contains) == true
        let isHostRight = !host.isEmpty && host.allSatisfy { $0.isASCII && ($0.isLetter || $0.isNumber || "-._:[]".contains($0)) }
        guard isPortRight, isHostRight else { throw StoreLocation.refusal(url, "the endpoint must be http(s)://host:port") }
    }

    /// As the `Host` header has it.
    package var authority: String { port.map { "\(host):\($0)" } ?? host }

    package var description: String { (usesTLS ? "https://" : "http://") + authority }
}
