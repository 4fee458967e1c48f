// The formats of images, by the names of the command line: those that are opened, and those that are made.

/// What an image file holds; the names are those of the command line.
package enum ImageFormat: String, CaseIterable, Sendable {
    case raw
    case vhdFixed = "vhd-fixed"
    case vhdDynamic = "vhd-dynamic"
    /// Read and written in place; never made.
    case vhdDifferencing = "vhd-differencing"
    case vhdx
    case qcow2
}

/// The formats an image can be made in.
package enum OutputFormat: String, CaseIterable, Sendable {
    case raw
    case vhdFixed = "vhd-fixed"
    case vhdDynamic = "vhd-dynamic"
    case vhdx
    case qcow2

    package var imageFormat: ImageFormat {
        switch self {
        case .raw: .raw
        case .vhdFixed: .vhdFixed
        case .vhdDynamic: .vhdDynamic
        case .vhdx: .vhdx
        case .qcow2: .qcow2
        }
    }
}
