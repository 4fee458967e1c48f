// How a disk is replicated, in the words of the command line: `policies` of the catalog (docs/formats/vault.md section 7) and `policy` of a
// disk's registration (docs/formats/change-log.md). What the words mean only the site says: a vault keeps them for hosts that take a disk over.

package struct PolicyWords: Codable, Equatable, Sendable {
    static let textBytesMax = 4_096

    package let name: String
    /// Of a failback policy the policy that it is one of.
    package let parent: String?
    package let intervalSeconds: Int
    package let pointSeconds: Int
    package let retention: String
    package let rpoSeconds: Int?
    package let bandwidth: String
    package let download: String
    package let compression: String
    package let resyncWindow: String
    package let whenFull: String
    package let appSeconds: Int?
    package let resyncPercent: Int
    package let anomaly: String

    package init(
        name: String, parent: String?, intervalSeconds: Int, pointSeconds: Int, retention: String, rpoSeconds: Int?, bandwidth: String, download: String, compression: String,
        resyncWindow: String, whenFull: String, appSeconds: Int?, resyncPercent: Int, anomaly: String
    ) {
        (self.name, self.parent) = (name, parent)
        (self.intervalSeconds, self.pointSeconds, self.rpoSeconds, self.appSeconds, self.resyncPercent) = (intervalSeconds, pointSeconds, rpoSeconds, appSeconds, resyncPercent)
        (self.retention, self.bandwidth, self.download, self.compression) = (retention, bandwidth, download, compression)
        (self.resyncWindow, self.whenFull, self.anomaly) = (resyncWindow, whenFull, anomaly)
    }

    var flaw: String? {
        if let name = [name, parent].compactMap({ $0 }).first(where: { !Catalog.isValidName($0) }) { return "\(name.debugDescription) cannot be a policy's name" }
        let longest = [retention, bandwidth, download, compression, resyncWindow, whenFull, anomaly].map(\.utf8.count).max() ?? 0
        return longest > Self.textBytesMax ? "the policy \(name) has a text of \(longest) bytes" : nil
    }
}

extension Catalog {
    /// How a disk is replicated where it is at home.
    package struct DiskPolicy: Codable, Equatable, Sendable {
        package let disk: VaultID
        package let policy: PolicyWords
        /// Away from home; nil: the same.
        package let failback: PolicyWords?

        package init(disk: VaultID, policy: PolicyWords, failback: PolicyWords?) {
            self.disk = disk
            self.policy = policy
            self.failback = failback
        }
    }

    package func policy(ofDisk disk: VaultID) -> DiskPolicy? { policies?.first { $0.disk == disk } }

    package mutating func set(_ policy: DiskPolicy) {
        let others = (policies ?? []).filter { $0.disk != policy.disk }
        policies = (others + [policy]).sorted { $0.disk.description < $1.disk.description }
    }

    var policyFlaw: String? {
        let policies = policies ?? []
        if Set(policies.map(\.disk)).count != policies.count { return "a disk's policy stands in it twice" }
        return policies.lazy.flatMap { [$0.policy, $0.failback].compactMap { $0 } }.compactMap(\.flaw).first
    }
}
