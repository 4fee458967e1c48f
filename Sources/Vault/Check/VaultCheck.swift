// `vault check`: walks from the catalog to every chunk and names what is damaged. Without `readData` chunks and segments
// are only asked for (there, and of the right size); with it every object the vault leads to is read and opened.

import ObjectStore

package struct VaultCheck {
    let vault: Vault
    let readData: Bool
    /// Only these, and nothing that no point needs is looked for; nil: all.
    private let disks: Set<VaultID>?
    let threads: Int
    let progress: Progress

    /// Called from several threads, after each chunk and segment of a disk.
    package typealias Progress = @Sendable (_ disk: String, _ done: Int, _ total: Int) -> Void

    package init(
        vault: Vault, readData: Bool, disks: Set<VaultID>? = nil, threads: Int = 8, progress: @escaping Progress = { _, _, _ in }
    ) {
        self.vault = vault
        self.readData = readData
        self.disks = disks
        self.threads = threads
        self.progress = progress
    }

    package func run() throws(VaultError) -> CheckReport {
        var report = CheckReport()
        try checkKeys(&report)
        let disks: [Catalog.Disk]
        var live: LiveObjects
        var checkedGroups: Set<VaultID> = []
        do {
            let newest = try vault.catalog()
            report.objects += 1
            disks = newest.document.disks
            live = LiveObjects(disks: disks)
            report.groups = UInt64(newest.document.groups?.count ?? 0)
            if let flaw = Self.flaw(inGroupsOf: newest.document) {
                report.findings.append(CheckFinding(object: ObjectPlace.catalog(newest.document.number).key, reason: flaw))
            }
            if readData { try checkChain(vault.catalogChain, below: newest, name: nil, &report) }
        } catch {
            guard let damage = error.damage else { throw error }
            report.findings.append(CheckFinding(object: damage.object, reason: damage.reason))
            return report
        }
        for disk in disks where self.disks?.contains(disk.id) ?? true {
            // The disks of a group have one chain of heads.
            let isFirst = checkedGroups.insert(disk.group).inserted
            try DiskCheck(check: self, disk: disk, checksChain: isFirst && readData).run(&report, &live)
            report.disks += 1
        }
        if report.isClean, self.disks == nil { try lookForOrphans(live, &report) }
        return report
    }

    /// What nothing leads to: no damage, only space, which `vault collect` frees. Only where nothing is damaged, for else
    /// what is behind the damage would look like it; and not with credentials that may not LIST.
    private func lookForOrphans(_ live: LiveObjects, _ report: inout CheckReport) throws(VaultError) {
        var orphans = CheckReport.Orphans()
        for prefix in ["chunks/", "maps/", "disks/"] {
            var after: String?
            while true {
                let page: ListPage
                do throws(StoreError) {
                    page = try vault.store.list(prefix: prefix, startAfter: after)
                } catch where error.code == .accessDenied || error.code == .unsupported {
                    return
                } catch {
                    throw .store(error)
                }
                for object in page.objects where ObjectName(key: object.key).map(live.isGarbage) ?? false { orphans.add(object) }
                guard page.isTruncated, let last = page.objects.last?.key else { break }
                after = last
            }
        }
        report.orphans = orphans
    }

    /// Each group lists the disks whose state its heads tell.
    private static func flaw(inGroupsOf catalog: Catalog) -> String? {
        for group in catalog.groups ?? [] where Set(group.disks) != Set(catalog.disks(inGroup: group.id).map(\.id)) {
            return "the group \(group.name) does not list the disks that say they are in it"
        }
        return nil
    }

    private func checkKeys(_ report: inout CheckReport) throws(VaultError) {
        report.objects += 1
        guard vault.keys.cipher != .none else { return }
        var isFound = false
        try KeyObjects(store: vault.store, vault: vault.id).visitAll { number, result throws(VaultError) in
            report.objects += 1
            isFound = true
            guard case .failure(let error) = result else { return }
            guard let damage = error.damage else { throw error }
            report.findings.append(CheckFinding(object: damage.object, reason: damage.reason))
        }
        if !isFound { report.findings.append(CheckFinding(object: ObjectPlace.keyObject(1), reason: "it is missing, and so are all others: only a recovery kit opens the vault")) }
    }

    /// The older objects of a chain: each must open and have the hash that its successor names.
    func checkChain<Document>(_ chain: Chain<Document>, below newest: Published<Document>, name: String?, _ report: inout CheckReport) throws(VaultError) {
        var expected = newest.document.previous
        var number = newest.document.number
        let newestAnchor = number / FormatLimits.anchorInterval * FormatLimits.anchorInterval
        while number > 1 {
            number -= 1
            do {
                let found = try chain.read(number)
                report.objects += 1
                if let expected, found.hash != expected {
                    report.findings.append(CheckFinding(object: chain.place(number).key, reason: "it is not what number \(number + 1) names: its hash differs", disk: name))
                }
                expected = found.document.previous
            } catch {
                expected = nil
                // Old numbers between anchors may have been collected.
                if case .missing = error, number % FormatLimits.anchorInterval != 0, number + FormatLimits.anchorInterval <= newestAnchor { continue }
                guard let damage = error.damage else { throw error }
                report.findings.append(CheckFinding(object: damage.object, reason: damage.reason, disk: name))
            }
        }
    }
}
