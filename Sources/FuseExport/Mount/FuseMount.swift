// A mount and the descriptors that keep it alive. As long as one process holds `device` the mount stays, whoever
// serves it. libfuse makes the mount (through fusermount3 for an ordinary user); fusermount3 takes it down.

package import BlockIO
import CFuse
import Glibc

package struct FuseMount: ~Copyable, Sendable {
    package let directory: String
    package let device: Descriptor
    package let slots: Descriptor
    package let kernel: KernelFeatures
    let slotPlan: SlotMemory.Plan

    /// Mounts at `directory`, which is made when missing and must be empty; answers the kernel's INIT. Requests wait in
    /// the kernel until a session serves them.
    package static func mount(at directory: String, allowOther: Bool, plan: SlotMemory.Plan = .forThisProcess()) throws(SystemError) -> FuseMount {
        let directory = try prepare(directory)
        var options = "fsname=\(MountedExport.source(pid: getpid())),subtype=farshore,default_permissions"
        if allowOther { options += ",allow_other" }
        let raw = farshore_fuse_mount(directory, options)
        guard raw >= 0 else { throw SystemError(errno: -raw, operation: "mount", path: directory) }
        let device = Descriptor(owning: raw, path: "/dev/fuse")
        do throws(SystemError) {
            let kernel = try KernelFeatures.negotiate(device: device.raw, payloadBytes: plan.payloadBytes)
            let slots = try SlotMemory.create(plan, kernel: kernel)
            return FuseMount(directory: directory, device: device, slots: slots, kernel: kernel, slotPlan: plan)
        } catch {
            detach(directory)
            throw error
        }
    }

    private init(directory: String, device: consuming Descriptor, slots: consuming Descriptor, kernel: KernelFeatures, slotPlan: SlotMemory.Plan) {
        self.slotPlan = slotPlan
        self.directory = directory
        self.device = device
        self.slots = slots
        self.kernel = kernel
    }

    /// The directory's absolute path, after a mount left behind by a killed supervisor was taken away.
    private static func prepare(_ directory: String) throws(SystemError) -> String {
        if let dead = try absolute(directory, throughDeadMount: true), try MountedExport.at(dead) != nil {
            guard access(dead, F_OK) != 0, errno == ENOTCONN else {
                throw SystemError(errno: EBUSY, operation: "mount: another mount of farshore is there", path: directory)
            }
            detach(dead)
        }
        try Directory.create(directory)
        guard let path = try absolute(directory, throughDeadMount: false) else {
            throw SystemError(errno: ENOENT, operation: "find", path: directory)
        }
        guard try Directory.list(path).isEmpty else {
            throw SystemError(errno: ENOTEMPTY, operation: "mount over", path: directory)
        }
        return path
    }

    /// realpath(3); below a dead mount it fails with ENOTCONN, so the last component is taken as it stands there.
    package static func absolute(_ directory: String, throughDeadMount: Bool) throws(SystemError) -> String? {
        if let resolved = realpath(directory, nil) {
            defer { free(resolved) }
            return String(cString: resolved)
        }
        if errno == ENOENT { return nil }
        guard throughDeadMount, errno == ENOTCONN else { throw SystemError(errno: errno, operation: "resolve", path: directory) }
        var trimmed = directory[...]
        while trimmed.count > 1, trimmed.hasSuffix("/") { trimmed.removeLast() }
        let name = trimmed.split(separator: "/").last.map(String.init) ?? ""
        guard let parent = try absolute(Directory.parent(of: String(trimmed)) ?? ".", throughDeadMount: false) else { return nil }
        return parent == "/" ? "/" + name : parent + "/" + name
    }

    package enum Unmounting: Equatable, Sendable { case done, busy, failed }

    /// Takes the mount away if nobody uses it. May wait for requests, so never call it from a thread that serves them.
    package static func unmount(_ directory: String) -> Unmounting {
        guard let child = try? startUnmount(directory, lazily: false) else { return .failed }
        return result(of: child.wait(), directory)
    }

    /// Takes the name away at once; open files stay as long as the device does.
    package static func detach(_ directory: String) {
        guard let child = try? startUnmount(directory, lazily: true) else { return }
        _ = child.wait()
    }

    static func startUnmount(_ directory: String, lazily: Bool) throws(SystemError) -> ChildProcess {
        try ChildProcess.spawn("fusermount3", ["-u", "-q"] + (lazily ? ["-z"] : []) + ["--", directory])
    }

    static func result(of ending: ChildProcess.Ending, _ directory: String) -> Unmounting {
        if ending == .exited(0) { return .done }
        // fusermount3 does not tell busy from other failures; a mount that is gone is what was wanted.
        guard let mounted = try? MountedExport.at(directory) else { return .done }
        return mounted.directory == directory ? .busy : .failed
    }
}
