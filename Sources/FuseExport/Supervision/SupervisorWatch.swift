// The supervisor's watch over a worker that lives and does nothing (HangWatch.swift says what that is). Reads /proc and the
// slots only: nothing here can wait for the storage the worker may be waiting for.

import BlockIO
import Glibc

extension Supervisor {
    func watchForHang() {
        let now = Clock.monotonicNanoseconds()
        guard let hangWatch, isServing, upgrade == nil, now >= nextSample else { return }
        nextSample = now + UInt64(hangWatch.sampleMilliseconds) * 1_000_000
        guard let worker, let sample = sample(worker) else { return }
        switch self.hangWatch!.note(sample) {
        case .fine: break
        case .waits:
            let text = "the worker (pid \(worker.process.pid)) has finished none of \(sample.requestsInHand) or more requests for \(hangWatch.limitMilliseconds / 1000) s: it waits for storage (D state); nothing is ended"
            log(text, of: worker)
            plan.onNotice(.waits(text))
        case .movesAgain:
            plan.log("the worker moves again")
            plan.onNotice(.movesAgain)
        case .hung:
            let text = "the worker (pid \(worker.process.pid)) stood still for \(hangWatch.limitMilliseconds / 1000) s with \(sample.requestsInHand) or more requests to serve and waited for no storage; ending it, its successor takes over"
            log(text, of: worker)
            plan.onNotice(.hung(text))
            worker.isLeaving = true
            kill(worker.process.pid, SIGKILL)
        }
    }

    /// Nil once the worker is to end: storage may still hold it up, and no successor is started beside it.
    private func sample(_ worker: Worker) -> HangWatch.Sample? {
        guard !worker.isLeaving, var hand = try? SlotMemory.requestsInHand(mount.slots, plan: mount.slotPlan) else { return nil }
        // A worker that stands still takes no request: those wait in the kernel.
        var queue = pollfd(fd: mount.device.raw, events: Int16(POLLIN), revents: 0)
        if poll(&queue, 1, 0) == 1, queue.revents & Int16(POLLIN) != 0 { hand.count += 1 }
        let pid = worker.process.pid
        // A worker that is opening its disks works for the requests in hand without finishing any.
        let waitsForOthers = hand.count > 0 && (!worker.isReady || ThreadStates(of: pid).waitsForOthers)
        return HangWatch.Sample(
            requestsInHand: hand.count, requestMark: hand.mark, writtenBytes: ThreadStates.writtenBytes(of: pid), waitsForOthers: waitsForOthers)
    }

    private func log(_ text: String, of worker: Worker) {
        plan.log(([text] + ThreadStates(of: worker.process.pid).lines).joined(separator: "\n  "))
    }
}
