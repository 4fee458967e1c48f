// Hands libFuzzer's inputs to the target that FARSHORE_FUZZ_TARGET names. libFuzzer brings `main`: see Tests/fuzz. With
// FARSHORE_FUZZ_SEEDS the target's own inputs are written to that folder instead.

import BlockIO
import FuzzTargets
import Glibc

private func variable(_ name: String) -> String? { getenv(name).map { String(cString: $0) } }

private let target: FuzzTarget = {
    guard let target = FuzzTarget(rawValue: variable("FARSHORE_FUZZ_TARGET") ?? "") else {
        print("FARSHORE_FUZZ_TARGET is to be one of \(FuzzTarget.allCases.map(\.rawValue).joined(separator: ", "))")
        exit(2)
    }
    return target
}()

@_cdecl("LLVMFuzzerInitialize")
func initialize(_ count: UnsafeMutablePointer<CInt>?, _ arguments: UnsafeMutableRawPointer?) -> CInt {
    guard let folder = variable("FARSHORE_FUZZ_SEEDS") else { return 0 }
    do {
        for (number, seed) in try target.seeds().enumerated() { try DurableFile.replace("\(folder)/seed-\(number)", with: seed) }
        exit(0)
    } catch {
        print("cannot write the seeds of \(target.rawValue): \(error)")
        exit(2)
    }
}

@_cdecl("LLVMFuzzerTestOneInput")
func testOneInput(_ bytes: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    do {
        try target.run(Array(UnsafeBufferPointer(start: bytes, count: count)))
        return 0
    } catch {
        print("the machine cannot run \(target.rawValue): \(error)")
        exit(2)
    }
}
