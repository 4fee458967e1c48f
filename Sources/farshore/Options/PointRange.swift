// `--from` and `--to`: a range of a disk's recovery points. A number or a time need not be one of a point.

import ArgumentParser
import RecoveryPoints
import Vault

struct PointRange: ParsableArguments {
    @Option(name: .long, help: ArgumentHelp("The oldest point to look at: a point, any number or any time.", valueName: "point"))
    var from: String?

    @Option(name: .long, help: ArgumentHelp("The newest point to look at.", valueName: "point"))
    var to: String?

    private enum Bound {
        case sequence(UInt64)
        case time(UInt64)
    }

    func validate() throws {
        for name in [from, to].compactMap({ $0 }) where PointName(name) == nil { throw ValidationError("\"\(name)\" is no point: use \(PointName.choices)") }
    }

    func points(_ points: [RecoveryPoint], _ shared: SharedPoints, of disk: Catalog.Disk) throws -> [RecoveryPoint] {
        let (oldest, newest) = (try bound(from, shared, disk), try bound(to, shared, disk))
        return points.filter { point in
            let isBelow =
                switch oldest {
                case .sequence(let sequence): point.sequence < sequence
                case .time(let micros): point.timeMicros < micros
                case nil: false
                }
            return switch newest {
            case .sequence(let sequence): !isBelow && point.sequence <= sequence
            case .time(let micros): !isBelow && point.timeMicros <= micros
            case nil: !isBelow
            }
        }
    }

    private func bound(_ text: String?, _ shared: SharedPoints, _ disk: Catalog.Disk) throws -> Bound? {
        guard let name = text.flatMap({ PointName($0) }) else { return nil }
        switch name {
        case .sequence(let sequence): return .sequence(sequence)
        case .time(let micros): return .time(micros)
        default: return try shared.resolve(name, on: disk).map { .sequence($0) }
        }
    }
}
