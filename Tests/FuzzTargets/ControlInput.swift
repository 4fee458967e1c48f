// What comes over the control socket, either way.

import Foundation
import Site

struct ControlInput {
    static func run(_ input: [UInt8]) throws {
        let data = Data(input)
        if let request = try? JSONDecoder().decode(ControlRequest.self, from: data) {
            require(try JSONDecoder().decode(ControlRequest.self, from: JSONEncoder().encode(request)) == request, "a request changes when it is passed on")
        }
        if let reply = try? JSONDecoder().decode(ControlReply.self, from: data) { _ = try JSONEncoder().encode(reply) }
    }

    static func seeds() throws -> [[UInt8]] {
        let requests: [ControlRequest] = [.status, .cut(disks: ["a", "b"], tag: "t", isApp: true), .makeDurable(disk: "a"), .freeze(disk: "a"), .add(disk: "é")]
        let replies: [ControlReply] = [.done, .durable(sequence: 9), .refused(ControlRefusal(.busy, "busy", remedy: "wait"))]
        return try requests.map { Array(try JSONEncoder().encode($0)) } + replies.map { Array(try JSONEncoder().encode($0)) }
    }
}
