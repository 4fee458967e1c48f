// Whether somebody has an IP address now: it is one of this host's, its host answers, or its network knows who has it. Asked with one
// UDP datagram to the discard port, which needs no privilege and no program; silence means that nobody was found.

import Foundation
import Glibc

package enum TakenAddress {
    private static let waitMilliseconds: Int32 = 1_000
    private static let discardPort: UInt16 = 9

    /// Who has it, as far as that can be told.
    package static func holder(of address: String) -> String? {
        var (info, hints) = (UnsafeMutablePointer<addrinfo>?.none, addrinfo())
        hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV
        hints.ai_socktype = Int32(SOCK_DGRAM.rawValue)
        guard getaddrinfo(address, "\(discardPort)", &hints, &info) == 0, let found = info else { return nil }
        defer { freeaddrinfo(found) }
        if isOurs(found.pointee) { return "this host has it" }
        if answers(found.pointee) { return "a host answers there" }
        return neighbour(address)
    }

    /// Only an address of one's own can be bound to.
    private static func isOurs(_ address: addrinfo) -> Bool {
        let raw = socket(address.ai_family, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard raw >= 0 else { return false }
        defer { close(raw) }
        var place = sockaddr_storage()
        withUnsafeMutableBytes(of: &place) { $0.copyMemory(from: UnsafeRawBufferPointer(start: address.ai_addr, count: Int(address.ai_addrlen))) }
        return withUnsafeMutablePointer(to: &place) {
            $0.withMemoryRebound(to: sockaddr_in.self, capacity: 1) { $0.pointee.sin_port = 0 }
            return $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(raw, $0, address.ai_addrlen) == 0 }
        }
    }

    /// Nothing listens at the discard port, so a host that is there says so.
    private static func answers(_ address: addrinfo) -> Bool {
        let raw = socket(address.ai_family, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard raw >= 0 else { return false }
        defer { close(raw) }
        guard connect(raw, address.ai_addr, address.ai_addrlen) == 0 else { return false }
        var byte: UInt8 = 0
        guard send(raw, &byte, 1, Int32(MSG_NOSIGNAL)) == 1 else { return errno == ECONNREFUSED }
        var waiting = pollfd(fd: raw, events: Int16(POLLIN), revents: 0)
        guard poll(&waiting, 1, waitMilliseconds) > 0 else { return false }
        return recv(raw, &byte, 1, Int32(MSG_DONTWAIT)) >= 0 || errno == ECONNREFUSED
    }

    /// Who answered the question for the hardware address that the datagram made the kernel ask.
    private static func neighbour(_ address: String) -> String? {
        guard let table = try? String(contentsOfFile: "/proc/net/arp", encoding: .utf8) else { return nil }
        for line in table.split(separator: "\n").dropFirst() {
            let words = line.split(separator: " ").map(String.init)
            guard words.count >= 6, words[0] == address, words[2] != "0x0", words[3] != "00:00:00:00:00:00" else { continue }
            return "\(words[3]) on \(words[5]) has it"
        }
        return nil
    }
}
