// Where a differencing disk says its parent is: docs/formats/vhd.md, sections "Dynamic header" and "Parent locator". The text of
// a locator lies elsewhere in the file; it is read and checked only where it is used.

import BlockIO

/// What the dynamic header of a differencing disk says of the parent.
struct VHDParentLink: Equatable, Sendable {
    let uniqueID: [UInt8]
    let timeStamp: UInt32
    /// Nil when it is no text.
    let name: String?
    let locators: [VHDParentLocator]

    init(_ field: ImageField, fileBytes: UInt64) throws(ImageError) {
        uniqueID = field.bytes(at: 40, count: 16)
        try field.require(uniqueID.contains { $0 != 0 }, "parent unique id", at: 40, found: "zeros", expected: "the unique id of a VHD",
            meaning: "the parent cannot be told from other images: XenServer writes this where the parent is a raw image")
        timeStamp = field.uint32(at: 56)
        name = utf16Text(field.bytes(at: 64, count: 512), isBigEndian: true)
        var found: [VHDParentLocator] = []
        for index in 0..<VHDParentLocator.count {
            let locator = VHDParentLocator(field, index: index)
            if locator.use != nil { try locator.check(field, fileBytes: fileBytes) }
            if locator.code != [0, 0, 0, 0] { found.append(locator) }
        }
        locators = found
    }
}

struct VHDParentLocator: Equatable, Sendable {
    static let count = 8
    static let firstOffset = 576
    static let bytesCount = 24
    static let textBytesMax: UInt32 = 65_536

    enum Use: Equatable, Sendable { case relativePath, absolutePath }

    let index: Int
    let code: [UInt8]
    private let dataSpace: UInt32
    private let dataLength: UInt32
    private let dataOffset: UInt64

    init(_ field: ImageField, index: Int) {
        let place = Self.firstOffset + index * Self.bytesCount
        self.index = index
        code = field.bytes(at: place, count: 4)
        dataSpace = field.uint32(at: place + 4)
        dataLength = field.uint32(at: place + 8)
        dataOffset = field.uint64(at: place + 16)
    }

    /// Nil when the locator is not used.
    var use: Use? {
        switch code {
        case Array("W2ru".utf8): .relativePath
        case Array("W2ku".utf8): .absolutePath
        default: nil
        }
    }

    /// Why a locator that is there is not used.
    var ignoredBecause: String? {
        switch code {
        case Array("MacX".utf8): "a file URL; who writes one writes W2ru too"
        case Array("Mac ".utf8): "an alias of classic Mac OS means nothing here"
        case Array("Wi2r".utf8), Array("Wi2k".utf8): "deprecated, in a code page that is not recorded"
        default: use == nil ? "its platform code is not known" : nil
        }
    }

    /// The text and the room kept for it.
    var structure: VHDStructure { VHDStructure(name: "parent locator \(index)", start: dataOffset, end: dataOffset + roomBytes) }

    private var roomBytes: UInt64 { dataSpace < 512 ? UInt64(dataSpace) * 512 : UInt64(dataSpace) }

    func check(_ field: ImageField, fileBytes: UInt64) throws(ImageError) {
        let place = Self.firstOffset + index * Self.bytesCount
        let name = "parent locator \(index)"
        try field.require(dataLength >= 2 && dataLength % 2 == 0 && dataLength <= Self.textBytesMax, "\(name), data length", at: place + 8,
            found: "\(dataLength)", expected: "an even number from 2 to \(Self.textBytesMax)", meaning: "the parent's path cannot be read")
        try field.require(UInt64(dataLength) <= roomBytes, "\(name), data space", at: place + 4, found: "\(dataSpace)",
            expected: "room for \(dataLength) bytes", meaning: "the parent's path is longer than the place kept for it")
        let (end, overflow) = dataOffset.addingReportingOverflow(roomBytes)
        try field.require(!overflow && end <= fileBytes, "\(name), data offset", at: place + 16, found: "\(dataOffset)",
            expected: "\(roomBytes) bytes within the file's \(fileBytes)", meaning: "the parent's path lies outside of the file")
    }

    /// Nil when the bytes are no UTF-16.
    func text(_ container: borrowing ContainerFile) throws(ImageError) -> String? {
        utf16Text(try container.read(count: Int(dataLength), at: dataOffset), isBigEndian: false)
    }
}

/// The text up to the first zero, without a byte order mark; nil when it is no UTF-16.
private func utf16Text(_ bytes: [UInt8], isBigEndian: Bool) -> String? {
    var units = stride(from: 0, to: bytes.count - 1, by: 2).map { place in
        let (high, low) = isBigEndian ? (bytes[place], bytes[place + 1]) : (bytes[place + 1], bytes[place])
        return UInt16(high) << 8 | UInt16(low)
    }
    if let end = units.firstIndex(of: 0) { units.removeLast(units.count - end) }
    if units.first == 0xFEFF { units.removeFirst() }
    return String(validating: units, as: UTF16.self)
}
