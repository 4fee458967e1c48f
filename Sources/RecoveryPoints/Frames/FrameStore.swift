// Plaintext frames of chunks and segments, fetched by range and kept in bounded memory; one store serves all points of
// a mount. Every frame was authenticated before it is kept, and none is fetched twice at the same time.

import Foundation
import ObjectStore
package import Vault

package struct FrameStoreLimits: Sendable {
    /// Plaintext kept.
    package var cacheBytesMax = 64 << 20
    /// Frame tables kept; a chunk's takes about 400 bytes, a segment's a few KiB.
    package var tablesMax = 4_096
    /// Of an object whose table is not known all up to the frames wanted is fetched by one request, when that is so much more than
    /// these at most: else the table by a request of its own.
    package var extraBytesMax = 512 << 10

    package init() {}
}

package final class FrameStore: @unchecked Sendable {
    // Sendable: everything below `condition` is only touched while it is locked.

    struct FrameKey: Hashable {
        let source: DataSource
        let frame: Int
    }

    private struct Kept {
        let bytes: [UInt8]
        var lastUse: UInt64
    }

    private let vault: Vault
    private let limits: FrameStoreLimits

    /// Guards the cache and the frames on their way; signalled whenever one arrives or fails.
    private let condition = NSCondition()
    private var frames: [FrameKey: Kept] = [:]
    private var cachedBytes = 0
    private var clock: UInt64 = 0
    private var underway: Set<FrameKey> = []
    /// Objects whose tables are on their way.
    private var opening: Set<DataSource> = []
    private var tables: [DataSource: (object: SealedObject, lastUse: UInt64)] = [:]

    package init(vault: Vault, limits: FrameStoreLimits = FrameStoreLimits()) {
        self.vault = vault
        self.limits = limits
    }

    /// A frame table that is known anyway, from reading a segment's index.
    func remember(_ object: SealedObject, of source: DataSource) {
        condition.lock()
        keepTable(object, source)
        condition.unlock()
    }

    /// Copies bytes `start…` of the source's plaintext into `buffer`. A block the source ends in is padded with zeros; what
    /// lies behind that is not there, and the map that names it is wrong.
    func read(_ source: DataSource, from start: Int, into buffer: UnsafeMutableRawBufferPointer) throws(VaultError) {
        let object = try table(source, for: start..<start + buffer.count)
        let end = min(start + buffer.count, object.header.plaintextBytes)
        guard start + buffer.count - end < FormatLimits.blockBytes else {
            throw .damaged(object: source.place.key, reason: "it has \(object.header.plaintextBytes) bytes, but a map or index names bytes up to \(start + buffer.count)")
        }
        if end < start + buffer.count { zero(buffer, from: max(0, end - start)) }
        guard start < end else { return }
        let frameBytes = object.header.frameBytes
        let range = (start / frameBytes)..<((end - 1) / frameBytes + 1)
        try withFrames(source, object, range) { frame, bytes in
            let from = max(start, frame * frameBytes)
            let to = min(end, frame * frameBytes + bytes.count)
            bytes.withUnsafeBytes { plain in
                UnsafeMutableRawBufferPointer(rebasing: buffer[(from - start)..<(to - start)])
                    .copyMemory(from: UnsafeRawBufferPointer(rebasing: plain[(from - frame * frameBytes)..<(to - frame * frameBytes)]))
            }
        }
    }

    /// Brings the frames of the range into the cache. Errors are left for the read that needs the frames.
    func prefetch(_ source: DataSource, from start: Int, count: Int) {
        do throws(VaultError) {
            let object = try table(source, for: start..<start + count)
            let end = min(start + count, object.header.plaintextBytes)
            guard start < end else { return }
            try withFrames(source, object, (start / object.header.frameBytes)..<((end - 1) / object.header.frameBytes + 1)) { _, _ in }
        } catch {
            return
        }
    }

    /// The plaintext of frames that are wanted once: they are not kept. One request.
    package func fetch(_ frames: Range<Int>, of source: DataSource) throws(VaultError) -> [UInt8] {
        let object = try table(source)
        guard frames.upperBound <= object.header.frameCount else {
            throw .damaged(object: source.place.key, reason: "it has \(object.header.frameCount) frames, but a map or index names one up to \(frames.upperBound)")
        }
        return try vault.frames(frames, of: object).flatMap { $0 }
    }

    package func frameBytes(of source: DataSource) throws(VaultError) -> Int { try table(source).header.frameBytes }

    // MARK: Frames

    /// Calls `body` with each frame. Frames another thread is fetching are waited for; if that fails, they are fetched here.
    private func withFrames(_ source: DataSource, _ object: SealedObject, _ range: Range<Int>, _ body: (Int, [UInt8]) -> Void) throws(VaultError) {
        var next = range.lowerBound
        condition.lock()
        defer { condition.unlock() }
        while next < range.upperBound {
            let key = FrameKey(source: source, frame: next)
            if let bytes = kept(key) {
                condition.unlock()
                body(next, bytes)
                condition.lock()
                next += 1
                continue
            }
            if underway.contains(key) {
                condition.wait()
                continue
            }
            // All absent frames in a row are one request.
            var end = next
            while end < range.upperBound, frames[FrameKey(source: source, frame: end)] == nil,
                underway.insert(FrameKey(source: source, frame: end)).inserted
            { end += 1 }
            let wanted = next..<end
            condition.unlock()
            let fetched: Result<[[UInt8]], VaultError>
            do throws(VaultError) { fetched = .success(try vault.frames(wanted, of: object)) } catch { fetched = .failure(error) }
            if case .success(let list) = fetched { for (index, bytes) in list.enumerated() { body(wanted.lowerBound + index, bytes) } }
            condition.lock()
            for frame in wanted { underway.remove(FrameKey(source: source, frame: frame)) }
            condition.broadcast()
            for (index, bytes) in try fetched.get().enumerated() { keep(bytes, FrameKey(source: source, frame: wanted.lowerBound + index)) }
            next = end
        }
    }

    private func kept(_ key: FrameKey) -> [UInt8]? {
        clock += 1
        frames[key]?.lastUse = clock
        return frames[key]?.bytes
    }

    private func keep(_ bytes: [UInt8], _ key: FrameKey) {
        clock += 1
        if let old = frames.updateValue(Kept(bytes: bytes, lastUse: clock), forKey: key) { cachedBytes -= old.bytes.count }
        cachedBytes += bytes.count
        guard cachedBytes > limits.cacheBytesMax else { return }
        // An eighth goes at once, so that the search for the oldest is rare.
        let oldest = frames.sorted { $0.value.lastUse < $1.value.lastUse }
        for (old, value) in oldest where cachedBytes > limits.cacheBytesMax / 8 * 7 && old != key {
            frames[old] = nil
            cachedBytes -= value.bytes.count
        }
    }

    // MARK: Frame tables

    /// The table of an object of which `wanted` is about to be read: fetched with the frames that it lies in, where they are near the beginning.
    private func table(_ source: DataSource, for wanted: Range<Int> = 0..<0) throws(VaultError) -> SealedObject {
        condition.lock()
        defer { condition.unlock() }
        while true {
            clock += 1
            tables[source]?.lastUse = clock
            if let known = tables[source]?.object { return known }
            if opening.insert(source).inserted { break }
            condition.wait()
        }
        condition.unlock()
        let end = (wanted.upperBound + FormatLimits.frameBytes - 1) / FormatLimits.frameBytes * FormatLimits.frameBytes
        let opened: Result<(object: SealedObject, frames: [[UInt8]?]), VaultError>
        do throws(VaultError) {
            opened = .success(try vault.sealedObject(source.place, andFirst: end - wanted.count <= limits.extraBytesMax ? end : 0))
        } catch { opened = .failure(error) }
        condition.lock()
        opening.remove(source)
        condition.broadcast()
        let (object, frames) = try opened.get()
        keepTable(object, source)
        // One that is damaged is met again by who needs it.
        for case (let frame, let bytes?) in frames.enumerated() { keep(bytes, FrameKey(source: source, frame: frame)) }
        return object
    }

    private func keepTable(_ object: SealedObject, _ source: DataSource) {
        clock += 1
        tables[source] = (object, clock)
        guard tables.count > limits.tablesMax else { return }
        for (old, _) in tables.sorted(by: { $0.value.lastUse < $1.value.lastUse }).prefix(limits.tablesMax / 8) { tables[old] = nil }
    }

    private func zero(_ buffer: UnsafeMutableRawBufferPointer, from start: Int) {
        UnsafeMutableRawBufferPointer(rebasing: buffer[start...]).initializeMemory(as: UInt8.self, repeating: 0)
    }
}
