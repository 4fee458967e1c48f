// The check of one disk: heads, manifests, maps, then the chunks and segments they name; damage is traced to the points
// and bytes it affects.

import BlockIO
import ObjectStore
import Synchronization

struct DiskCheck {
    let check: VaultCheck
    let disk: Catalog.Disk
    /// Also the older heads of its group.
    let checksChain: Bool

    private var vault: Vault { check.vault }

    func run(_ report: inout CheckReport, _ live: inout LiveObjects) throws(VaultError) {
        let heads = vault.heads(group: disk.group)
        do {
            guard let newest = try heads.newest() else { return }
            report.objects += 1
            if checksChain { try check.checkChain(heads.chain, below: newest, name: disk.name, &report) }
            guard let state = newest.document.state(of: disk.id), !state.lineages.isEmpty else { return }
            try run(state, &report, &live)
        } catch {
            guard let damage = error.damage else { throw error }
            var finding = CheckFinding(object: damage.object, reason: damage.reason, disk: disk.name)
            finding.hidesPoints = true
            finding.widen(from: 0, to: FormatLimits.integerMax, ranges: [ByteRange(offset: 0, length: disk.sizeBytes)])
            report.findings.append(finding)
        }
    }

    private func run(_ state: DiskState, _ report: inout CheckReport, _ live: inout LiveObjects) throws(VaultError) {
        var survey = HistorySurvey(vault: vault, state: state, followPrevious: check.readData)
        try survey.run()
        let objects = try mapObjects(survey)
        live.insert(survey)
        live.insert(Array(objects.sources), of: disk.id)
        for page in objects.pages { _ = live.insert(page: page) }
        report.objects += UInt64(survey.manifests.count + survey.unneededCount + objects.pages.count) + (state.kept == nil ? 0 : 1)
        var findings = survey.findings.merging(objects.damagedPages) { first, _ in first }
        let damaged = try verify(objects.sources, survey.segments, &report)
        for (source, reason) in damaged { findings[key(source)] = CheckFinding(object: key(source), reason: reason) }
        if !damaged.isEmpty || !objects.damagedPages.isEmpty {
            try DamageTrace(vault: vault, disk: disk, survey: survey, damaged: Set(damaged.keys)).widen(&findings)
        }
        report.points += UInt64(survey.points.count)
        for (_, found) in findings.sorted(by: { $0.key < $1.key }) {
            var finding = found
            finding.disk = disk.name
            finding.points = survey.points.filter { finding.affects($0.sequence) }
            report.findings.append(finding)
        }
    }

    private struct MapObjects {
        var pages: Set<Hash256> = []
        var sources: Set<MapSource> = []
        var damagedPages: [String: CheckFinding] = [:]
    }

    private func mapObjects(_ survey: HistorySurvey) throws(VaultError) -> MapObjects {
        var objects = MapObjects()
        var seen: Set<Hash256> = []
        let walk = MapWalk(
            vault: vault, enters: { seen.insert($0).inserted },
            onLeaf: { leaf in
                objects.sources.formUnion(leaf.sources)
            },
            onDamage: { id, _, reason in
                let key = ObjectPlace.mapPage(id).key
                objects.damagedPages[key] = CheckFinding(object: key, reason: reason)
            })
        for root in survey.roots.map(\.root) { try walk.visit(root) }
        objects.pages = seen
        return objects
    }

    private func key(_ source: MapSource) -> String {
        switch source {
        case .chunk(let chunk): ObjectPlace.chunk(chunk).key
        case .segment(let segment): ObjectPlace.segment(disk: disk.id, lineage: segment.lineage, first: segment.first, last: segment.last).key
        }
    }

    /// Chunks and segments, several at a time. An error that is no damage (the target is away) ends the check.
    private func verify(
        _ sources: Set<MapSource>, _ segments: [SegmentID: SegmentEntry], _ report: inout CheckReport
    ) throws(VaultError) -> [MapSource: String] {
        struct Outcome {
            var damaged: [MapSource: String] = [:]
            var failure: VaultError?
            var bytes: UInt64 = 0
            var done = 0
        }
        let outcome = Mutex(Outcome())
        let work = Array(sources.union(segments.keys.map { MapSource.segment($0) }))
        forEachInParallel(work, threads: check.threads) { [check, disk] source in
            guard outcome.withLock({ $0.failure == nil }) else { return }
            do throws(VaultError) {
                let bytes = try DataObject(vault: check.vault, disk: disk.id, source: source, entry: source.segment.flatMap { segments[$0] }).verify(reading: check.readData)
                outcome.withLock { $0.bytes += bytes }
            } catch {
                outcome.withLock { outcome in
                    if let damage = error.damage { outcome.damaged[source] = damage.reason } else { outcome.failure = error }
                }
            }
            let done = outcome.withLock { outcome in
                outcome.done += 1
                return outcome.done
            }
            check.progress(disk.name, done, work.count)
        }
        let result = outcome.withLock { $0 }
        if let failure = result.failure { throw failure }
        report.objects += UInt64(work.count)
        report.bytesRead += result.bytes
        return result.damaged
    }
}

extension MapSource {
    var segment: SegmentID? {
        guard case .segment(let segment) = self else { return nil }
        return segment
    }
}
