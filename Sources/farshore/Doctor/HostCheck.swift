// One line of `farshore doctor`, and the checks themselves. They read /proc and the loaded libraries, and mount an empty
// directory for a moment to hear what the kernel's FUSE offers.

import BlockIO
import CLinux
import Foundation
import FuseExport
import Glibc
import Site

struct HostCheck: Encodable {
    enum State: String, Encodable { case ok, degraded, missing }

    let name: String
    let state: State
    let found: String
    let remedy: String?

    init(_ name: String, _ state: State, _ found: String, try remedy: String? = nil) {
        self.name = name
        self.state = state
        self.found = found
        self.remedy = remedy
    }

    static func all(site: SiteDirectory) -> [HostCheck] {
        [kernel(), fuseDevice(), fusermount()] + fuseFeatures() + [allowOther(), ioUring(), workerRestart(), lockedMemory(), openFiles(), clock(), siteFolder(site)] + supervisor(site) + libraries()
    }

    private static func kernel() -> HostCheck {
        var name = utsname()
        uname(&name)
        let release = withUnsafeBytes(of: &name.release) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        let numbers = release.split(whereSeparator: { !$0.isNumber }).prefix(2).compactMap { Int($0) }
        guard numbers.count == 2 else { return HostCheck("kernel", .degraded, "\(release): version not understood") }
        let version = numbers[0] * 1000 + numbers[1]
        if version < 5015 { return HostCheck("kernel", .missing, "\(release), needs 5.15", try: "upgrade the kernel") }
        if version < 6006 {
            return HostCheck("kernel", .degraded, "\(release): no shared mmap of served disks and no parallel direct writes before 6.6", try: "a kernel of 6.6 or later")
        }
        return HostCheck("kernel", .ok, release)
    }

    private static func fuseDevice() -> HostCheck {
        let device = open("/dev/fuse", O_RDWR | O_CLOEXEC)
        if device >= 0 {
            close(device)
            return HostCheck("/dev/fuse", .ok, "opens")
        }
        let reason = String(cString: strerror(errno))
        let remedy = errno == ENOENT || errno == ENODEV ? "modprobe fuse" : "run as root, or make /dev/fuse accessible: chmod 0666 /dev/fuse"
        return HostCheck("/dev/fuse", .missing, reason, try: remedy)
    }

    private static func fusermount() -> HostCheck {
        let folders = (ProcessInfo.processInfo.environment["PATH"] ?? "/usr/bin:/bin").split(separator: ":")
        if let found = folders.map({ "\($0)/fusermount3" as String }).first(where: { access($0, X_OK) == 0 }) { return HostCheck("fusermount3", .ok, found) }
        let state: State = geteuid() == 0 ? .degraded : .missing
        return HostCheck("fusermount3", state, "not found: ordinary users cannot mount", try: "apt install fuse3")
    }

    /// What the kernel offers, asked by a mount of a moment's length in a temporary directory.
    private static func fuseFeatures() -> [HostCheck] {
        let folder = FileManager.default.temporaryDirectory.path + "/farshore-doctor-\(getpid())"
        defer { rmdir(folder) }
        do {
            let mount = try FuseMount.mount(at: folder, allowOther: false)
            let kernel = mount.kernel
            FuseMount.detach(folder)
            return [
                HostCheck("FUSE", .ok, "protocol 7.\(kernel.minorVersion), requests up to \(kernel.maxWriteBytes >> 10) KiB"),
                feature("parallel direct writes", kernel.hasParallelDirectWrites, "writers of one disk take turns"),
                feature("asynchronous direct I/O", kernel.hasAsyncDirectIO, "deep queues are served one by one"),
                feature("shared mappings", kernel.allowsSharedMappings, "mmap(MAP_SHARED) of a served disk fails"),
                HostCheck("resend", .ok, "\(kernel.offersResend ? "offered" : "not offered") by the kernel; not needed, requests are kept in slots"),
                HostCheck("FUSE over io_uring", .ok, "\(kernel.offersIOUring ? "offered" : "not offered") by the kernel; not used, a dead worker would lose requests"),
            ]
        } catch {
            return [HostCheck("FUSE", .missing, "a mount was tried and failed: \(error)", try: "apt install fuse3; see /dev/fuse above")]
        }
    }

    private static func feature(_ name: String, _ isThere: Bool, _ without: String) -> HostCheck {
        isThere ? HostCheck(name, .ok, "in use") : HostCheck(name, .degraded, "not offered: \(without)", try: "a newer kernel (6.9 or later)")
    }

    private static func allowOther() -> HostCheck {
        if geteuid() == 0 { return HostCheck("--allow-other", .ok, "root may always use it") }
        let text = (try? String(contentsOfFile: "/etc/fuse.conf", encoding: .utf8)) ?? ""
        let isAllowed = text.split(separator: "\n").contains { $0.trimmingCharacters(in: .whitespaces) == "user_allow_other" }
        if isAllowed { return HostCheck("--allow-other", .ok, "user_allow_other is set in /etc/fuse.conf") }
        return HostCheck("--allow-other", .degraded, "only you will see your mounts", try: "add user_allow_other to /etc/fuse.conf")
    }

    private static func ioUring() -> HostCheck {
        let value = number(in: "/proc/sys/kernel/io_uring_disabled")
        let found = value == 0 ? "enabled" : value == nil ? "not stated by this kernel" : "disabled"
        return HostCheck("io_uring", .ok, "\(found); farshore does not use it")
    }

    private static func lockedMemory() -> HostCheck {
        let bytes = farshore_locked_memory_bytes_max()
        let text = bytes == UInt64.max ? "unlimited" : bytesText(bytes)
        let plan = SlotMemory.Plan.forThisProcess()
        let buffers = "\(plan.slotCount) requests of \(bytesText(UInt64(plan.payloadBytes))) at once"
        if plan == .full { return HostCheck("locked memory", .ok, "\(text): \(buffers)") }
        return HostCheck(
            "locked memory", .degraded, "\(text): \(buffers), instead of \(SlotMemory.Plan.full.slotCount) of \(bytesText(UInt64(SlotMemory.Plan.full.payloadBytes)))",
            try: "ulimit -l 65536, or LimitMEMLOCK=64M in the unit")
    }

    /// A dead worker is always replaced; what a host can lack is the protection of the supervisor that replaces it.
    private static func workerRestart() -> HostCheck {
        let name = "worker restart"
        let sysResource: UInt64 = 24  // CAP_SYS_RESOURCE of linux/capability.h
        let text = (try? String(contentsOfFile: "/proc/self/status", encoding: .utf8)) ?? ""
        let line = text.split(separator: "\n").first { $0.hasPrefix("CapEff:") }
        let capabilities = line.flatMap { UInt64($0.dropFirst(7).trimmingCharacters(in: .whitespaces), radix: 16) } ?? 0
        let mayProtectItself = capabilities & (1 << sysResource) != 0
        if mayProtectItself { return HostCheck(name, .ok, "a worker that dies is replaced, guests see a pause; the supervisor is kept from the out-of-memory killer") }
        return HostCheck(
            name, .degraded, "a worker that dies is replaced, but without CAP_SYS_RESOURCE a shortage of memory may end the supervisor too, and guests see errors",
            try: "run the mount as root, or in a unit with AmbientCapabilities=CAP_SYS_RESOURCE")
    }

    private static func openFiles() -> HostCheck {
        var value = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &value) == 0 else { return HostCheck("open files", .degraded, "limit unknown") }
        let count = value.rlim_cur
        if count >= 1024 { return HostCheck("open files", .ok, "\(count)") }
        return HostCheck("open files", .degraded, "\(count): too few for many disks", try: "ulimit -n 4096")
    }

    private static func clock() -> HostCheck {
        let now = timeText(nanoseconds: Clock.wallNanoseconds())
        if farshore_clock_is_synchronised() { return HostCheck("clock", .ok, "\(now), synchronised") }
        return HostCheck("clock", .degraded, "\(now), not synchronised: times of points are labels, but targets refuse 15 minutes of skew", try: "apt install chrony")
    }

    private static func siteFolder(_ site: SiteDirectory) -> HostCheck {
        var folder = site.path
        while access(folder, F_OK) != 0, let parent = Directory.parent(of: folder), parent != folder { folder = parent }
        var status = statvfs()
        guard statvfs(folder, &status) == 0, access(folder, W_OK) == 0 else {
            return HostCheck("site directory", .missing, "\(site.path) cannot be written", try: "--site DIR or FARSHORE_SITE with a directory you may write")
        }
        let free = UInt64(status.f_bavail) * UInt64(status.f_frsize)
        let state: State = free < 256 << 20 ? .degraded : .ok
        return HostCheck("site directory", state, "\(site.path), \(bytesText(free)) free", try: state == .ok ? nil : "make room for the catalogue")
    }

    /// Only while a mount of the site runs.
    private static func supervisor(_ site: SiteDirectory) -> [HostCheck] {
        guard case .status(_, _, let mount)? = try? ControlClient(site: site).ask(.status, timeoutSeconds: 5) else { return [] }
        if mount.hasSupervisor { return [HostCheck("supervisor", .ok, "the mount survives a crash of its worker")] }
        return [HostCheck("supervisor", .degraded, lostSupervisorText, try: lostSupervisorRemedy)]
    }

    /// The shared libraries that are loaded, by the file names that carry their versions.
    private static func libraries() -> [HostCheck] {
        // Read to its end: files of /proc state no size.
        let data = try? FileHandle(forReadingAtPath: "/proc/self/maps")?.readToEnd()
        let maps = String(decoding: data ?? Data(), as: UTF8.self)
        let files = Set(maps.split(separator: "\n").compactMap { line in line.firstIndex(of: "/").map { slash in String(line[slash...]) } })
        let wanted = [("libcrypto", "libssl3"), ("libzstd", "libzstd1"), ("libz", "zlib1g"), ("libisal", "libisal2"), ("libsqlite3", "libsqlite3-0"), ("libfuse3", "libfuse3-3")]
        return wanted.map { (name, package) -> HostCheck in
            if let file = files.first(where: { $0.contains("/\(name).so") }) { return HostCheck(name, .ok, file) }
            return HostCheck(name, .degraded, "not loaded: linked in, or of another name", try: "apt install \(package)")
        }
    }

    private static func number(in path: String) -> Int? {
        (try? String(contentsOfFile: path, encoding: .utf8)).flatMap { Int($0.trimmingCharacters(in: .whitespacesAndNewlines)) }
    }
}
