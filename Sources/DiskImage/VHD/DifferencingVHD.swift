// What a differencing VHD does beyond a dynamic one: docs/formats/vhd.md, sections "Blocks" and "In a differencing disk". A sector
// is the block's own or the parent's, as its bit says.
//
// Order: data first, then the bit in memory, then, by the flush after a sync, the bit in the file. So who reads sees a sector as it
// was or as it was written, and a crash leaves it as it was at the last flush.

import BlockIO
import Synchronization

extension DynamicVHD {
    private static let searchBytes: UInt64 = 1 << 30

    /// Sectors of a block that are all its own, or all the parent's.
    private struct SectorRun {
        let isPresent: Bool
        let sectors: Range<Int>
    }

    func read(_ span: Span, data: UInt64?, over parent: VHDParent, into buffer: UnsafeMutableRawBufferPointer) throws(SystemError) {
        guard let data else { return try parent.read(into: buffer, at: start(of: span)) }
        for run in try runs(of: span, data: data, mayWait: true) ?? [] {
            let (part, offset) = clip(run, span, buffer)
            if run.isPresent {
                try reads.read(file.descriptor, into: part, at: data + offset)
            } else {
                try parent.read(into: part, at: startOfBlock(span) + offset)
            }
        }
    }

    func readIfCached(_ span: Span, data: UInt64?, over parent: VHDParent, into buffer: UnsafeMutableRawBufferPointer) -> Bool {
        guard let data else { return parent.readIfCached(into: buffer, at: start(of: span)) }
        // What cannot be read now fails again, and is told, in the read that waits.
        guard let runs = try? runs(of: span, data: data, mayWait: false) else { return false }
        var hasAll = true
        for run in runs {
            let (part, offset) = clip(run, span, buffer)
            let has = run.isPresent ? reads.readIfCached(into: part, at: data + offset) : parent.readIfCached(into: part, at: startOfBlock(span) + offset)
            if !has { hasAll = false }
        }
        return hasAll
    }

    /// Whole sectors are written as they are; of the first and last sector the rest may have to come from the parent.
    func write(_ bytes: UnsafeRawBufferPointer, _ span: Span, data: UInt64, over parent: VHDParent) throws(SystemError) {
        let (start, end) = (Int(span.offsetInBlock), Int(span.offsetInBlock) + span.count)
        var done = start
        while done < end {
            let isWhole = done % 512 == 0 && end - done >= 512
            let next = isWhole ? end - end % 512 : min(end, done - done % 512 + 512)
            let part = UnsafeRawBufferPointer(rebasing: bytes[done - start..<next - start])
            if isWhole {
                try file.write(part, at: data + UInt64(done))
                try notePresent(done / 512..<next / 512, ofBlock: span.block, data: data)
            } else {
                try complete(part, at: done, block: span.block, data: data, over: parent)
            }
            done = next
        }
    }

    func zero(_ span: Span, data known: UInt64?, over parent: VHDParent) throws(SystemError) {
        if known == nil, try parent.nextData(from: start(of: span), before: start(of: span) + UInt64(span.count)) == nil { return }
        let data = if let known { known } else { try writableBlock(span.block) }
        let (start, end) = (Int(span.offsetInBlock), Int(span.offsetInBlock) + span.count)
        let (first, last) = (min((start + 511) / 512 * 512, end), max(end / 512 * 512, start))
        if first < last {
            try file.zero(at: data + UInt64(first), length: UInt64(last - first))
            try notePresent(first / 512..<last / 512, ofBlock: span.block, data: data)
        }
        // What is left at the ends is less than a sector each.
        let ends = first < last ? [start..<first, last..<end] : start / 512 == (end - 1) / 512 ? [start..<end] : [start..<first, first..<end]
        for range in ends where !range.isEmpty {
            let zeros = [UInt8](repeating: 0, count: range.count)
            var failure: SystemError?
            zeros.withUnsafeBytes { bytes in
                do throws(SystemError) {
                    try complete(bytes, at: range.lowerBound, block: span.block, data: data, over: parent)
                } catch { failure = error }
            }
            if let failure { throw failure }
        }
    }

    /// The first offset before `limit` that may hold data. A window at a time: of two tables none is searched to its end while the
    /// other has something near.
    func nextData(from offset: UInt64, before limit: UInt64) throws(SystemError) -> UInt64? {
        guard let parent else { return try ownNextData(from: offset, before: limit) }
        var from = offset
        while from < limit {
            let end = min(from + Self.searchBytes, limit)
            let own = try ownNextData(from: from, before: end)
            if let found = try parent.nextData(from: from, before: own ?? end) ?? own { return found }
            from = end
        }
        return nil
    }

    /// Where neither the image nor the parent has data.
    func nextHole(from offset: UInt64, over parent: VHDParent) throws(SystemError) -> UInt64 {
        var from = offset
        while from < sizeBytes {
            let own = try ownNextHole(from: from)
            if own >= sizeBytes { return sizeBytes }
            from = try parent.nextHole(from: own)
            if from == own { return own }
        }
        return sizeBytes
    }

    func placeOfPage(_ number: Int) -> UInt64 {
        let data = blocks.withLock { $0.dataOffset(ofBlock: number / header.bitmapPages) } ?? 0
        return place(ofPage: number % header.bitmapPages, data: data)
    }

    // MARK: - one sector

    /// Writes a part of one sector. While the sector is the parent's the rest of it is copied up.
    private func complete(_ bytes: UnsafeRawBufferPointer, at offset: Int, block: Int, data: UInt64, over parent: VHDParent) throws(SystemError) {
        try completing.withLock { (_) throws(SystemError) in
            let sector = offset / 512
            let page = try page(sector / VHDBitmapPage.sectors, ofBlock: block, data: data, mayWait: true)
            let place = sector % VHDBitmapPage.sectors
            if page?.run(from: place, to: place + 1).isPresent ?? false {
                try file.write(bytes, at: data + UInt64(offset))
            } else {
                let whole = AlignedBuffer(count: 512)
                try parent.read(into: whole.bytes, at: UInt64(block) * UInt64(header.blockBytes) + UInt64(sector * 512))
                whole.bytes.baseAddress?.advanced(by: offset % 512).copyMemory(from: bytes.baseAddress!, byteCount: bytes.count)
                try file.write(UnsafeRawBufferPointer(whole.bytes), at: data + UInt64(sector * 512))
            }
            try notePresent(sector..<sector + 1, ofBlock: block, data: data)
        }
    }

    // MARK: - bitmaps

    private func notePresent(_ sectors: Range<Int>, ofBlock block: Int, data: UInt64) throws(SystemError) {
        var from = sectors.lowerBound
        while from < sectors.upperBound {
            let page = from / VHDBitmapPage.sectors
            let end = min(sectors.upperBound, (page + 1) * VHDBitmapPage.sectors)
            let first = page * VHDBitmapPage.sectors
            while !blocks.withLock({ $0.bitmaps?.set(from - first..<end - first, in: number(ofPage: page, block)) ?? true }) {
                _ = try self.page(page, ofBlock: block, data: data, mayWait: true)
            }
            from = end
        }
    }

    /// Nil when a bitmap is not in memory and must not be waited for.
    private func runs(of span: Span, data: UInt64, mayWait: Bool) throws(SystemError) -> [SectorRun]? {
        var runs: [SectorRun] = []
        var from = Int(span.offsetInBlock) / 512
        let last = (Int(span.offsetInBlock) + span.count + 511) / 512
        while from < last {
            let page = from / VHDBitmapPage.sectors
            let first = page * VHDBitmapPage.sectors
            guard let bits = try self.page(page, ofBlock: span.block, data: data, mayWait: mayWait) else { return nil }
            let end = min(last, first + VHDBitmapPage.sectors)
            while from < end {
                let run = bits.run(from: from - first, to: end - first)
                runs.append(SectorRun(isPresent: run.isPresent, sectors: from..<first + run.end))
                from = first + run.end
            }
        }
        return runs
    }

    private func page(_ page: Int, ofBlock block: Int, data: UInt64, mayWait: Bool) throws(SystemError) -> VHDBitmapPage? {
        let number = number(ofPage: page, block)
        let bytes = AlignedBuffer(count: VHDBitmapPage.bytesCount)
        while true {
            let (known, generation) = blocks.withLock { ($0.bitmaps?.page(number), $0.bitmaps?.generation ?? 0) }
            if let known { return known }
            let place = place(ofPage: page, data: data)
            if mayWait { try file.descriptor.read(into: bytes.bytes, at: place) } else if !reads.readIfCached(into: bytes.bytes, at: place) { return nil }
            let read = VHDBitmapPage(UnsafeRawBufferPointer(bytes.bytes))
            if blocks.withLock({ $0.bitmaps?.insert(read, number, readSince: generation) ?? true }) { return read }
        }
    }

    private func number(ofPage page: Int, _ block: Int) -> Int { block * header.bitmapPages + page }

    private func place(ofPage page: Int, data: UInt64) -> UInt64 {
        data - header.bitmapBytes + UInt64(page) * UInt64(VHDBitmapPage.bytesCount)
    }

    // MARK: - places

    private func startOfBlock(_ span: Span) -> UInt64 { UInt64(span.block) * UInt64(header.blockBytes) }

    private func start(of span: Span) -> UInt64 { startOfBlock(span) + span.offsetInBlock }

    /// The part of the span's buffer that the run covers, and where it begins in the block.
    private func clip(_ run: SectorRun, _ span: Span, _ buffer: UnsafeMutableRawBufferPointer) -> (part: UnsafeMutableRawBufferPointer, offset: UInt64) {
        let start = Int(span.offsetInBlock)
        let from = max(run.sectors.lowerBound * 512, start)
        let to = min(run.sectors.upperBound * 512, start + span.count)
        return (UnsafeMutableRawBufferPointer(rebasing: buffer[from - start..<to - start]), UInt64(from))
    }
}
