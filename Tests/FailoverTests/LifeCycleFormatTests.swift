// `lifeCycle` in a head: what is written is read, and what no release wrote is refused.

import Foundation
import Testing
import Vault

@Suite struct LifeCycleFormatTests {
    @Test func everyStateIsReadAsItWasWritten() throws {
        for state in LifeCycle.State.allCases {
            let point = LifeCycle.Point(disk: .random(), lineage: .random(), sequence: 77)
            let written = LifeCycle(state: state, active: .random(), home: .random(), target: .random(), run: .random(), kind: .planned, points: [point], timeMicros: 9)
            #expect(try JSONDecoder().decode(LifeCycle.self, from: JSONEncoder().encode(written)) == written)
        }
    }

    @Test func anUnknownStateIsRefused() throws {
        let text = #"{"active":"00000000000000000000000000000001","home":"00000000000000000000000000000001","state":"resting","timeMicros":1}"#
        #expect(throws: DecodingError.self) { try JSONDecoder().decode(LifeCycle.self, from: Data(text.utf8)) }
    }
}
