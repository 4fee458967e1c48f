// swift-tools-version: 6.2
import PackageDescription

// One configuration for everything: `swift build -c release --build-tests` (see Makefile).
let house: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .treatAllWarnings(as: .error),
]

/// A room: a folder under Sources with the rooms and packages it may import.
func room(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .target(name: name, dependencies: dependencies, swiftSettings: house)
}

func tests(_ name: String, _ dependencies: [Target.Dependency], resources: [Resource] = []) -> Target {
    .testTarget(name: name, dependencies: dependencies, resources: resources, swiftSettings: house)
}

let log = Target.Dependency.product(name: "Logging", package: "swift-log")

let package = Package(
    name: "farshore",
    products: [.executable(name: "farshore", targets: ["farshore"])],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
        .package(url: "https://github.com/swift-server/async-http-client", from: "1.37.0"),
        .package(url: "https://github.com/apple/swift-nio-ssl", from: "2.37.6"),
        .package(url: "https://github.com/groue/GRDB.swift", from: "7.10.0"),
        .package(url: "https://github.com/CoreOffice/XMLCoder", from: "0.18.2"),
    ],
    targets: [
        .systemLibrary(name: "CFuse", path: "CModules/CFuse", pkgConfig: "fuse3", providers: [.apt(["libfuse3-dev"])]),
        .systemLibrary(name: "COpenSSL", path: "CModules/COpenSSL", pkgConfig: "libcrypto", providers: [.apt(["libssl-dev"])]),
        .systemLibrary(name: "CZstd", path: "CModules/CZstd", pkgConfig: "libzstd", providers: [.apt(["libzstd-dev"])]),
        .systemLibrary(name: "CZlib", path: "CModules/CZlib", pkgConfig: "zlib", providers: [.apt(["zlib1g-dev"])]),
        .systemLibrary(name: "CISAL", path: "CModules/CISAL", pkgConfig: "libisal", providers: [.apt(["libisal-dev"])]),
        .systemLibrary(name: "CYaml", path: "CModules/CYaml", pkgConfig: "yaml-0.1", providers: [.apt(["libyaml-dev"])]),
        .target(name: "CLinux", path: "CModules/CLinux"),

        room("BlockIO", ["CLinux", "CISAL"]),
        room("DiskImage", ["BlockIO", "CLinux", "CZlib", "CZstd"]),
        room("ChangeLog", ["BlockIO"]),
        room("VirtualDisk", ["BlockIO", "DiskImage", "ChangeLog"]),
        room("FuseExport", ["BlockIO", "VirtualDisk", "DiskImage", "CFuse", "CLinux"]),
        room("ObjectStore", [
            "BlockIO", "CLinux", "COpenSSL", log, .product(name: "AsyncHTTPClient", package: "async-http-client"),
            .product(name: "NIOCore", package: "swift-nio"), .product(name: "NIOPosix", package: "swift-nio"),
            .product(name: "NIOHTTP1", package: "swift-nio"),
            .product(name: "NIOSSL", package: "swift-nio-ssl"), "XMLCoder",
        ]),
        room("Vault", ["BlockIO", "ObjectStore", "COpenSSL", "CZstd"]),
        room("Site", ["BlockIO", .product(name: "GRDB", package: "GRDB.swift"), log]),
        room("Replication", ["BlockIO", "DiskImage", "ChangeLog", "Site", "ObjectStore", "Vault", log]),
        room("RecoveryPoints", ["BlockIO", "DiskImage", "VirtualDisk", "ObjectStore", "Vault"]),
        room("Failover", ["BlockIO", "DiskImage", "ChangeLog", "VirtualDisk", "ObjectStore", "Vault", "Site", "Replication", "RecoveryPoints", "CYaml", log]),
        .executableTarget(
            name: "farshore",
            dependencies: [
                "BlockIO", "DiskImage", "ChangeLog", "VirtualDisk", "FuseExport", "ObjectStore", "Vault", "Site", "Replication",
                "RecoveryPoints", "Failover", "CLinux", log, .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            swiftSettings: house),

        tests("TidyTests", []),
        tests("BlockIOTests", ["BlockIO"]),
        tests("DiskImageTests", ["BlockIO", "DiskImage"]),
        tests("ChangeLogTests", ["BlockIO", "ChangeLog"]),
        tests("VirtualDiskTests", ["BlockIO", "DiskImage", "ChangeLog", "VirtualDisk"]),
        // Serves raw files through a mount: what the mount tests run on. Not installed.
        .executableTarget(name: "raw-export", dependencies: ["BlockIO", "VirtualDisk", "FuseExport"], path: "Tests/RawExport", swiftSettings: house),
        tests("FuseExportTests", ["BlockIO", "VirtualDisk", "FuseExport", "raw-export"]),
        tests("ObjectStoreTests", ["BlockIO", "ObjectStore"]),
        // A small vault and a disk of known content, for the test targets below.
        .target(name: "VaultFixtures", dependencies: ["BlockIO", "ObjectStore", "Vault"], path: "Tests/VaultFixtures", swiftSettings: house),
        // Makes a vault with a long history, for the scenario many-segments. Not installed.
        .executableTarget(name: "long-history", dependencies: ["BlockIO", "ObjectStore", "Vault"], path: "Tests/LongHistory", swiftSettings: house),
        tests("VaultTests", ["BlockIO", "ObjectStore", "Vault", "VaultFixtures"]),
        tests("SiteTests", ["BlockIO", "Site", .product(name: "GRDB", package: "GRDB.swift")]),
        tests("ReplicationTests", ["BlockIO", "DiskImage", "ChangeLog", "VirtualDisk", "Site", "ObjectStore", "Vault", "Replication", "RecoveryPoints", "VaultFixtures", log]),
        tests("RecoveryPointsTests", ["BlockIO", "DiskImage", "ObjectStore", "Vault", "RecoveryPoints", "VaultFixtures"]),
        tests("FailoverTests", [
            "BlockIO", "DiskImage", "ChangeLog", "VirtualDisk", "Site", "ObjectStore", "Vault", "Replication", "RecoveryPoints", "Failover", "VaultFixtures", log,
            .product(name: "GRDB", package: "GRDB.swift"),
        ]),
        // Readers of foreign bytes, for libFuzzer (Tests/fuzz) and for the short form in FuzzTests.
        .target(
            name: "FuzzTargets",
            dependencies: ["BlockIO", "DiskImage", "ChangeLog", "VirtualDisk", "ObjectStore", "Vault", "RecoveryPoints", "Site", "VaultFixtures"],
            path: "Tests/FuzzTargets", swiftSettings: house),
        tests("FuzzTests", ["FuzzTargets", "VaultFixtures"]),
    ]
)

// libFuzzer brings `main`, so the driver links in its build only.
if Context.environment["FARSHORE_FUZZ"] != nil {
    package.targets.append(.executableTarget(name: "fuzz", dependencies: ["BlockIO", "FuzzTargets"], path: "Tests/FuzzDriver", swiftSettings: house))
}

// The disk engine on a machine that is simulated by replacing the C library's calls (docs/decisions/0504). A sanitizer replaces the
// same ones, so a build with one goes without.
if Context.environment["FARSHORE_SANITIZE"] == nil {
    package.targets += [
        .target(name: "SimulatedSystem", path: "Tests/SimulatedSystem"),
        .executableTarget(
            name: "engine-simulation", dependencies: ["BlockIO", "DiskImage", "ChangeLog", "VirtualDisk", "SimulatedSystem"],
            path: "Tests/Simulation", swiftSettings: house),
        tests("SimulationTests", ["engine-simulation"]),
    ]
}
