// Opens a differencing disk and what lies under it: docs/formats/vhd.md, section "The parent". One chain is made for one opening;
// it remembers which files that has met, so that a chain ends, and what was found out about each parent.

import BlockIO

/// A parent in a chain, as `image info` shows it.
package struct ChainLink: Equatable, Sendable {
    package enum TimeStamp: Equatable, Sendable {
        /// The child has noted that of the parent's footer, or the time the parent's file was changed last.
        case matches
        /// The child has noted none.
        case absent
        /// Seconds since 2000 that the child has noted, and when the parent's file was changed last.
        case differs(noted: UInt32, file: UInt32)
    }

    package let path: String
    package let format: ImageFormat
    package let vhd: VHDFooter
    package let timeStamp: TimeStamp
}

struct VHDChain {
    static let filesMax = 64
    static let tableEntriesMax: UInt64 = 16 << 20
    private static let timeStampSecondsOff: Int64 = 2

    private let folders: ChainFolders
    private let locks: ParentLocks?
    private var files: [FileKey] = []
    private var tableEntries: UInt64 = 0
    private(set) var links: [ChainLink] = []

    /// `locks`: keeps each parent from being written from before its tables are read.
    init(image: String, parentFolders: [String], locks: ParentLocks?) throws(ImageError) {
        self.locks = locks
        folders = try ChainFolders(image: image, named: parentFolders)
    }

    /// What the image in `container` reads where it has nothing of its own; nil for an image without a parent. Called for the
    /// image the chain begins with, then for each parent in turn.
    mutating func openParent(of container: borrowing ContainerFile, _ layout: DynamicVHDLayout) throws(ImageError) -> VHDParent? {
        let path = files.isEmpty ? folders.image : container.path
        files.append(try key(container))
        tableEntries += UInt64(layout.header.tableEntries)
        guard let link = layout.header.parent else { return nil }
        let found = try find(link, path, container)
        try check(found, link, layout, path)
        let (footer, status) = (found.footer, found.file.status)
        links.append(ChainLink(path: found.file.path, format: footer.format, vhd: footer, timeStamp: Self.compare(link, footer, status)))
        return VHDParent(try open(found.file, footer))
    }

    private mutating func open(_ file: consuming ContainerFile, _ footer: VHDFooter) throws(ImageError) -> any ImageFile {
        if footer.diskType == .fixed { return try openFixedVHD(file, access: .readOnly) }
        let layout = try readDynamicLayout(file, footer.diskType)
        try requireRoom(layout, file.path)
        let parent = try openParent(of: file, layout)
        return try openDynamicVHD(file, layout, parent: parent, access: .readOnly, listener: nil)
    }

    private struct Found: ~Copyable {
        let file: ContainerFile
        let footer: VHDFooter

        /// With its size as it is now.
        consuming func again() throws(ChainBreak.Reason) -> ContainerFile {
            do throws(SystemError) { return try ContainerFile(file.descriptor) } catch { throw .system(error) }
        }
    }

    private func key(_ container: borrowing ContainerFile) throws(ImageError) -> FileKey {
        do throws(SystemError) { return try FileKey(container.descriptor) } catch { throw .system(error) }
    }

    /// The first file that has the parent's unique id, locked where locks are asked for; of locks that were handed down, the file held.
    private func find(_ link: VHDParentLink, _ childPath: String, _ child: borrowing ContainerFile) throws(ImageError) -> Found {
        let places = try folders.places(of: link, child: childPath, child)
        if let locks, locks.areHandedDown { return try findHeld(locks, link, childPath, places) }
        var tried: [ChainBreak.Place] = []
        for path in places {
            do throws(ChainBreak.Reason) {
                let found = try identify(try folders.open(path), link)
                guard let locks, try !isAbove(found) else { return found }
                do throws(ImageError) { try locks.add(found.file.descriptor) } catch { throw .noImage(error) }
                // Before it was locked somebody may have been at it.
                return try identify(try found.again(), link)
            } catch {
                if case .noImage(.inUse(let path)) = error { throw .inUse(path: path) }
                tried.append(ChainBreak.Place(path: path, reason: error))
            }
        }
        throw .brokenChain(ChainBreak(child: childPath, name: link.name, uniqueID: link.uniqueID, tried: tried))
    }

    /// A chain that comes back to an image would meet the lock that its opener has on that; `check` says what is wrong with it.
    private func isAbove(_ found: borrowing Found) throws(ChainBreak.Reason) -> Bool {
        do throws(SystemError) { return files.contains(try FileKey(found.file.descriptor)) } catch { throw .system(error) }
    }

    /// Two in a chain may have one unique id: they are held in the order in which they were found.
    private func findHeld(_ locks: ParentLocks, _ link: VHDParentLink, _ childPath: String, _ places: [String]) throws(ImageError) -> Found {
        var damage: ImageError?
        for descriptor in locks.descriptors {
            let held = try key(openHeld(locks, descriptor, as: childPath))
            guard !files.contains(held) else { continue }
            let file = try openHeld(locks, descriptor, as: name(of: held, link, places))
            do throws(ChainBreak.Reason) { return try identify(file, link) } catch {
                // Of another id are the other parents of the chain.
                if case .noImage(let found) = error { damage = damage ?? found }
            }
        }
        if let damage { throw damage }
        var tried: [ChainBreak.Place] = []
        for path in places {
            do throws(ChainBreak.Reason) {
                _ = try identify(try folders.open(path), link)
                throw .notHeld
            } catch { tried.append(ChainBreak.Place(path: path, reason: error)) }
        }
        throw .brokenChain(ChainBreak(child: childPath, name: link.name, uniqueID: link.uniqueID, tried: tried))
    }

    private func openHeld(_ locks: ParentLocks, _ descriptor: Int32, as path: String) throws(ImageError) -> ContainerFile {
        do throws(SystemError) { return try locks.open(descriptor, as: path) } catch { throw .system(error) }
    }

    /// Where a file that is held lies; else where another one took its name; else where it may be brought back to.
    private func name(of held: FileKey, _ link: VHDParentLink, _ places: [String]) -> String {
        var taken: String?
        for path in places {
            do throws(ChainBreak.Reason) {
                let file = try folders.open(path)
                if (try? FileKey(file.descriptor)) == held { return path }
                _ = try identify(file, link)
                taken = taken ?? path
            } catch { continue }
        }
        return taken ?? places.first(where: folders.couldHold) ?? places.first ?? folders.image
    }

    private func identify(_ file: consuming ContainerFile, _ link: VHDParentLink) throws(ChainBreak.Reason) -> Found {
        let footer: VHDFooter
        do throws(ImageError) { footer = try anyFooter(file) } catch { throw .noImage(error) }
        guard footer.uniqueID == link.uniqueID else { throw .otherDisk(uniqueID: footer.uniqueID) }
        return Found(file: file, footer: footer)
    }

    private func check(_ found: borrowing Found, _ link: VHDParentLink, _ child: DynamicVHDLayout, _ childPath: String) throws(ImageError) {
        let (path, size) = (found.file.path, found.footer.currentSizeBytes)
        let field = ImageField(child.header.encoded(), structure: "dynamic header", at: child.footer.dataOffset, path: childPath)
        try field.require(!files.contains(try key(found.file)), "parent unique id", at: 40, found: path,
            expected: "an image that is not above it in the chain", meaning: "the chain never ends")
        guard files.count < Self.filesMax else {
            throw .unsupported(
                path: folders.image, what: "a chain of more than \(Self.filesMax) images: a limit of Farshore (it goes on below \(childPath))",
                remedy: "merge images of the chain where they are made (Hyper-V: Merge-VHD), until at most \(Self.filesMax) are left")
        }
        try field.require(size <= child.footer.currentSizeBytes, "parent unique id", at: 40,
            found: "a parent of \(size) bytes at \(path)", expected: "at most this disk's \(child.footer.currentSizeBytes)",
            meaning: "the parent was made larger after this image was made from it")
    }

    private func requireRoom(_ layout: DynamicVHDLayout, _ path: String) throws(ImageError) {
        let entries = tableEntries + UInt64(layout.header.tableEntries)
        guard entries <= Self.tableEntriesMax else {
            throw .unsupported(
                path: folders.image,
                what: "its chain has \(entries) table entries down to \(path): a limit of Farshore is \(Self.tableEntriesMax) (dynamic header, table entries)",
                remedy: "merge images of the chain where they are made (Hyper-V: Merge-VHD), or make them with larger blocks")
        }
    }

    private static func compare(_ link: VHDParentLink, _ parent: VHDFooter, _ status: FileStatus) -> ChainLink.TimeStamp {
        if link.timeStamp == 0 { return .absent }
        let seconds = status.modificationTimeNanoseconds / 1_000_000_000 - VHDFooter.secondsTo2000
        let isNear = abs(seconds - Int64(link.timeStamp)) <= timeStampSecondsOff
        if link.timeStamp == parent.timeStamp || isNear { return .matches }
        return .differs(noted: link.timeStamp, file: UInt32(clamping: seconds))
    }
}

/// The footer of a VHD of any type, as far as it says who the image is.
private func anyFooter(_ container: borrowing ContainerFile) throws(ImageError) -> VHDFooter {
    switch try probeFormat(container) {
    case .vhdFixed: return try readFixedFooter(container)
    case .vhdDynamic, .vhdDifferencing: return try readTrueFooter(container).footer
    case .raw, .vhdx, .qcow2: throw .unsupported(path: container.path, what: "no VHD", remedy: "bring the parent back")
    }
}
