// What `unprotect --discard-log` takes away, counted before it does, as far as the log can still be read.

import BlockIO
import ChangeLog
import Replication
import Site

struct DiscardedLog: Encodable {
    let folder: String
    /// The image holds all up to here, and of what came later nothing or something.
    let mergedSequence: UInt64?
    /// Data of the writes after that; absent when the log cannot be read.
    let lostBytes: UInt64?
    /// A vault is proven to hold all up to here.
    let replicatedSequence: UInt64?

    init(_ disk: ProtectedDisk, newestProven: UInt64?) {
        folder = disk.logFolder
        replicatedSequence = newestProven
        var merged: UInt64?
        var lost: UInt64?
        do {
            let reader = try LogReader(LogFolder(disk.logFolder))
            merged = reader.state.destagedSequence
            lost = try ReplicationLag.measure(reader, provenSequence: reader.state.destagedSequence).bytes
        } catch {
            printError("farshore: warning: the log cannot be read to its end, so what is lost with it is not known: \(error)")
        }
        mergedSequence = merged
        lostBytes = lost
    }

    var text: String {
        let lost = lostBytes.map { bytesText($0) + " of writes" } ?? "an unknown number of writes"
        let place = mergedSequence.map { " after #\($0)" } ?? ""
        let vault = replicatedSequence.map { "The vault holds all up to #\($0)." } ?? "Nothing of the disk is proven to be in the vault."
        return "Its log \(folder) was dropped: \(lost)\(place) never reached the image. \(vault)"
    }
}
