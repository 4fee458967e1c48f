// Sound images that are beyond what Farshore serves: told as that, with a way out, and not as damage.

import BlockIO
import DiskImage
import Testing

@Suite struct LimitTests {
    private func expectLimit(_ path: String, _ format: ImageFormat, _ words: String, try remedy: String) {
        for opening in [{ _ = try openImage(path, access: .readOnly, format: format) }, { _ = try checkImage(path, format: format) }] as [() throws -> Void] {
            let error = #expect(throws: ImageError.self, performing: opening)
            guard case .unsupported(_, let what, let way) = error else { Issue.record("told as \(String(describing: error))"); continue }
            #expect(what.contains(words) && what.contains("a limit of Farshore") && way.contains(remedy), "\(what): \(way)")
        }
    }

    @Test(.enabled(if: requires("qemu-img"))) func imagesOfQEMU() throws {
        let folder = try TestFolder()
        let (vhdx, qcow2) = (folder.file("10T.vhdx"), folder.file("65T.qcow2"))
        try run("qemu-img", ["create", "-q", "-f", "vhdx", "-o", "block_size=1M", vhdx, "10T"])
        expectLimit(vhdx, .vhdx, "a disk of 10485760 blocks of 1048576 bytes", try: "block_size=32M")
        try run("qemu-img", ["create", "-q", "-f", "qcow2", qcow2, "65T"])
        expectLimit(qcow2, .qcow2, "a disk of \(65 << 40) bytes", try: "64T")
        // The largest that is served.
        try run("qemu-img", ["create", "-q", "-f", "qcow2", folder.file("64T.qcow2"), "64T"])
        #expect(try openImage(folder.file("64T.qcow2"), access: .readOnly).sizeBytes == 64 << 40)
    }

    /// 2,040 GiB in blocks of 64 KiB.
    @Test func aVHDOfSmallBlocks() throws {
        let folder = try TestFolder()
        let path = folder.file("small blocks.vhd")
        try OutputImage.makeEmpty(path, .vhdDynamic, VHDFooter.sizeBytesMax)
        try Lie(.header, 28, [0x01, 0xFE, 0, 0, 0, 1, 0, 0], "").apply(to: Descriptor.open(path, 2))
        expectLimit(path, .vhdDynamic, "a disk of 33423360 blocks of 65536 bytes", try: "blocks of 2 MiB")
    }

    /// That fits into the other formats, and the refusal says so.
    @Test func aDiskTooLargeForAVHD() throws {
        let folder = try TestFolder()
        let error = #expect(throws: ImageError.self) { try OutputImage.makeEmpty(folder.file("large.vhd"), .vhdDynamic, 2050 << 30) }
        guard case .unsupported(_, let what, let remedy) = error else { Issue.record("told as \(String(describing: error))"); return }
        #expect(what.contains("a VHD holds at most 2,040 GiB") && remedy == "another format: vhdx, qcow2 or raw")
    }

    @Test func aLongLogOfAVHDX() throws {
        let folder = try TestFolder()
        let path = try MalformedMappedTests.sound(folder, .vhdx)
        try FileLie((64 << 10) + 68, [0, 0, 0x10, 0x01], "").apply(to: Descriptor.open(path, 2), .vhdx)
        expectLimit(path, .vhdx, "a log of \(17 << 20) bytes", try: "qemu-img convert")
    }
}
