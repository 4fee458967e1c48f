// Policies on their way: from the catalogue of the site that replicates a disk to the catalog of the vault, where a host finds them that takes the disk
// over. Published with the uploader's rounds, when the catalog as it was last read says something else, and only by who writes the disk's heads.

package import Site
package import Vault

extension PolicyWords {
    package init(_ policy: Policy) {
        self.init(
            name: policy.name, parent: policy.parent, intervalSeconds: policy.intervalSeconds, pointSeconds: policy.pointSeconds, retention: policy.retention.text,
            rpoSeconds: policy.rpoSeconds, bandwidth: policy.bandwidth.text, download: policy.download.text, compression: policy.compression.text,
            resyncWindow: policy.resyncWindow.text, whenFull: policy.whenFull.rawValue, appSeconds: policy.appSeconds, resyncPercent: policy.resyncPercent,
            anomaly: policy.anomaly.rawValue)
    }

    /// Throws where a word means nothing here, as one of a newer version may.
    package func policy() throws(SiteError) -> Policy {
        guard let whenFull = Policy.WhenFull(rawValue: whenFull), let anomaly = Policy.Anomaly(rawValue: anomaly) else {
            throw SiteError(.policyWrong, "the policy \(name) says \(self.whenFull), \(self.anomaly)", remedy: "farshore policy create POLICY")
        }
        let found = Policy(
            name: name, parent: parent, intervalSeconds: intervalSeconds, pointSeconds: pointSeconds, retention: try RetentionRules(retention), rpoSeconds: rpoSeconds,
            bandwidth: try BandwidthCalendar(bandwidth), compression: try Policy.Compression(compression), resyncWindow: try WeeklyWindow(resyncWindow), whenFull: whenFull,
            download: try BandwidthCalendar(download), appSeconds: appSeconds, resyncPercent: resyncPercent, anomaly: anomaly)
        // A person's limits hold for what a file or a vault says too.
        return try PolicyChange(appSeconds: appSeconds).applied(to: found)
    }
}

extension VaultConnection {
    /// Gives the vault what it lacks of the policies of disks that this process writes. Away from home a disk has a failback policy, which says nothing
    /// of how it is to be replicated elsewhere.
    func publishPolicies(of catalogue: Catalogue) throws {
        let written = Set(claimedHeads.flatMap { $0.head?.document.disks.map(\.disk) ?? [] })
        let (known, policies) = (catalogRead(), try catalogue.policies())
        let wanted = try catalogue.disksAtTargets().compactMap { disk -> Catalog.DiskPolicy? in
            guard disk.vaultID == vault.id.description, disk.isReplicated, disk.policy.parent == nil, let id = VaultID(disk.id), written.contains(id) else { return nil }
            let failback = policies.first { $0.name == disk.policy.failbackName && !$0.hasSettings(of: disk.policy) }
            return Catalog.DiskPolicy(disk: id, policy: PolicyWords(disk.policy), failback: failback.map(PolicyWords.init))
        }
        let new = wanted.filter { wanted in known.policy(ofDisk: wanted.disk) != wanted && known.disks.contains { $0.id == wanted.disk } }
        guard !new.isEmpty else { return }
        remember(try vault.updateCatalog { catalog in
            for one in new where catalog.disks.contains(where: { $0.id == one.disk }) { catalog.set(one) }
        }.document)
    }
}
