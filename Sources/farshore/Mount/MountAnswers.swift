// The engine's words in the control socket's: status of mount and disks, refusals, and the failures a person sees.

import BlockIO
import ChangeLog
import DiskImage
import FuseExport
import Glibc
import Site
import VirtualDisk

/// Said by status, events and doctor.
let lostSupervisorText = "the supervisor of the mount is gone: the next crash of the worker ends the mount"
let lostSupervisorRemedy = "stop what uses the mount, then farshore unmount DIR and farshore mount DIR"

extension ServedDiskStatus {
    /// `points`: why no point is cut, when none is.
    init(_ status: DiskStatus, points: String?, filling: FillingStatus?, hasSupervisor: Bool) {
        let problem = filling?.problem.map { "the image is not filled from its recovery point; what it lacks may read as an I/O error: \($0)" } ?? points
        let health: Health =
            switch status.health {
            case .normal: problem == nil && hasSupervisor ? .normal : .warning
            case .warning: .warning
            case .critical: .critical
            }
        self.init(
            disk: status.name, sizeBytes: status.sizeBytes, lastSequence: status.log.lastSequence, flushedSequence: status.log.durableSequence,
            destagedSequence: status.log.destagedSequence, frozenSequence: status.frozenSequence, logBytes: status.log.fileBytes,
            logBudgetBytes: status.log.budgetBytes, undestagedBytes: status.log.undestagedBytes, unreplicatedBytes: status.log.unreplicatedBytes, health: health,
            reason: !status.reason.isEmpty ? status.reason : problem ?? (hasSupervisor ? nil : lostSupervisorText),
            remedy: !status.remedy.isEmpty ? status.remedy : filling?.problem != nil ? "bring back what the message names; it is tried again and again" : points != nil ? "farshore status and farshore events say what is wrong" : hasSupervisor ? nil : lostSupervisorRemedy,
            filling: filling, waitsForVault: status.trouble == .writesRefused && status.log.starvation?.cause == .notReplicated)
    }
}

extension MountStatus {
    init(_ slots: SlotMemory, hasSupervisor: Bool) {
        let (traffic, kernel) = (slots.traffic(), slots.kernel)
        self.init(
            requests: traffic.requests, readBytes: traffic.bytesRead, writtenBytes: traffic.bytesWritten, mappedWrites: traffic.writesFromMappings,
            failedRequests: traffic.errors, requestsAtOnce: slots.slotCount, requestBytesMax: slots.payloadBytes,
            hasParallelWrites: kernel.hasParallelDirectWrites, hasAsynchronousDirectIO: kernel.hasAsyncDirectIO,
            allowsSharedMappings: kernel.allowsSharedMappings, hasSupervisor: hasSupervisor)
    }
}

extension ControlRefusal {
    init(_ error: any Error) {
        if let error = error as? SiteError {
            let reason: Reason =
                switch error.code {
                case .diskNotFound: .noSuchDisk
                case .diskBusy, .lockHeld: .busy
                default: .diskFailed
                }
            self.init(reason, error.message, remedy: error.remedy)
            return
        }
        let failure = Failure.explaining(error) ?? Failure(.failed, "\(error)", try: "farshore doctor")
        let reason: Reason =
            switch failure.status {
            case .notEnoughSpace: .notEnoughSpace
            case .inUse: .busy
            default: .diskFailed
            }
        self.init(reason, failure.message, remedy: failure.remedy)
    }
}

extension Failure {
    init(_ error: DiskError) {
        switch error {
        case .log(let cause): self.init(cause)
        case .system(let cause): self.init(cause)
        case .imageChanged:
            self.init(.badImage, "\(error)", try: "farshore accept DISK if only an owner, mode, name or time changed; a parent that was written to is brought back from a copy before that; if the image was, copy it and its log aside and give up what only the log holds: farshore accept DISK --discard-log")
        case .imageReplaced:
            self.init(.badImage, "\(error)", try: "put the very file back that was served, then farshore accept DISK; without that image what the log holds is of no use: farshore accept DISK --discard-log")
        case .sizeMismatch(let image, _, _):
            self.init(.badImage, "\(error)", try: "bring \(image) back as it was: it is another file, or its size was changed (farshore image info FILE); where it is lost, farshore restore DISK --vault URL --at latest --to FILE brings it back from the vault")
        }
    }

    init(_ error: LogError) {
        switch error {
        case .system(let cause): self.init(cause)
        case .inUse: self.init(.inUse, "\(error)", try: "farshore status: one mount, uploader or command at a time owns a log")
        case .notALog(let folder): self.init(.notFound, "\(error)", try: "bring \(folder) back, it holds writes the image may not have; if it is lost: farshore accept DISK --discard-log")
        case .underFailback: self.init(.inUse, "\(error)", try: "farshore failback status MACHINE; failback start goes on, failover release gives the image up")
        case .damaged: self.init(.integrityDamage, "\(error)", try: "keep a copy of the folder; restore the disk from its vault, then farshore unprotect DISK --discard-log")
        default: self.init(.failed, "\(error)", try: "farshore doctor")
        }
    }
}
