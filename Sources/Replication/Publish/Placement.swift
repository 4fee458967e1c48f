// In which group's heads a disk is published: those of the disks it shares points with on this site. When that changed, its
// state moves from one chain of heads to another (docs/formats/vault.md section 8), in an order that a crash may interrupt
// anywhere: the old chain says where the disk goes, the new one has its state, then the catalog. Called by the disk's thread.

import Site
import Vault

struct Placement {
    let connection: VaultConnection
    let catalogue: Catalogue
    let host: String

    private var vault: Vault { connection.vault }

    /// The heads of the disk's group, with the disk placed there.
    func heads(of disk: ProtectedDisk, in group: ConsistencyGroup) throws -> GroupHeads {
        guard let id = VaultID(disk.id), let wanted = VaultID(group.id) else {
            throw SiteError(.catalogueDamaged, "the disk \(disk.name) or its group has an impossible id", remedy: "protect the disk again")
        }
        let name = group.kind == .disk ? nil : group.name
        if let entry = connection.known(id), entry.group == wanted, entry.machineName == disk.machine {
            let heads = try connection.heads(wanted, host: host)
            if heads.head?.document.state(of: id)?.movedTo == nil { return heads }
        }
        let entry = try connection.entry(of: id)
        let heads = try connection.heads(wanted, host: host)
        if entry.group == wanted {
            if heads.head?.document.state(of: id)?.movedTo != nil { try heads.publish { $0.mark(id, movedTo: nil) } }
            guard entry.machineName != disk.machine else { return heads }
        } else {
            try refuseTaken(name, wanted)
            let old = try connection.heads(entry.group, host: host)
            try refuseForeign(old, entry)
            try move(id, from: old, to: heads)
        }
        // Until the catalog names the group no collection waits for it: what its head acknowledged before does not count.
        if entry.group != wanted { try catalogue.forgetKeptEpoch(ofDisk: disk.name, at: disk.vaultID) }
        try connection.place(id, in: wanted, named: name, machine: disk.machine)
        return heads
    }

    /// Disks of the group that this site protects no more go on their own: else its points would wait for them for ever.
    func releaseStrangers(_ heads: GroupHeads, group: ConsistencyGroup) throws {
        guard group.kind != .disk, let head = heads.head?.document, head.writer.host == host else { return }
        let strangers = head.disks.filter { state in state.movedTo == nil && !group.disks.contains { $0.id == state.disk.description } }
        guard !strangers.isEmpty else { return }
        let own = Set(try catalogue.disksAtTargets().filter { $0.vaultID == vault.id.description }.map(\.id))
        for state in strangers where !own.contains(state.disk.description) {
            guard let entry = try connection.find(state.disk) else {
                try heads.publish { $0.remove(state.disk) }
                continue
            }
            guard entry.group == heads.group else { continue }
            try move(state.disk, from: heads, to: try connection.heads(state.disk, host: host))
            try connection.place(state.disk, in: state.disk, named: nil, machine: entry.machineName)
            // Nobody here goes on with it.
            try vault.release(writerOf: state.disk.description, host: host)
        }
    }

    private func move(_ disk: VaultID, from old: GroupHeads, to new: GroupHeads) throws {
        guard old.head?.document.state(of: disk) != nil else { return }
        // From here on nobody adds to it there: this fences the uploader that could, and later ones see the mark.
        try old.publish { [group = new.group] in $0.mark(disk, movedTo: group) }
        guard let head = old.head?.document else { return }
        try new.publish { $0.take(disk, from: head) }
    }

    private func refuseTaken(_ name: String?, _ wanted: VaultID) throws {
        guard let name else { return }
        try connection.catalogRead().refuseTaken(name, for: wanted, own: Set(try catalogue.disks().map(\.id)))
    }

    /// A group is on one host: its disks are not taken from another one's, one by one.
    private func refuseForeign(_ old: GroupHeads, _ entry: Catalog.Disk) throws {
        guard old.group != entry.id, let head = old.head?.document, head.writer.host != host else { return }
        let own = Set(try catalogue.disks().map(\.id))
        guard head.disks.contains(where: { $0.movedTo == nil && $0.disk != entry.id && !own.contains($0.disk.description) }) else { return }
        let name = connection.catalogRead().group(old.group)?.name ?? old.group.description
        throw VaultError.refused(
            "\(entry.name) is in the group \(name), whose other disks \(head.writer.host) replicates; a group lives on one host and cannot span two: take the disk out of the group there")
    }
}
