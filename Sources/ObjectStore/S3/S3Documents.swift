// The XML documents of S3, read with XMLCoder and written by hand. Every limit on them is the answer's size limit.

import Foundation
import XMLCoder

struct S3ErrorBody: Decodable {
    let Code: String
    let Message: String?
    let Region: String?
    let Endpoint: String?

    init?(_ body: [UInt8]) {
        guard body.contains(UInt8(ascii: "<")), let read = try? S3Documents.decoder.decode(Self.self, from: Data(body)) else { return nil }
        self = read
    }
}

struct S3ListBody: Decodable {
    struct Object: Decodable {
        let Key: String
        let Size: UInt64
    }

    let IsTruncated: Bool
    let EncodingType: String?
    let Contents: [Object]?
}

struct S3DeleteBody: Decodable {
    struct Failure: Decodable {
        let Key: String?
        let Code: String?
        let Message: String?
    }

    let Error: [Failure]?
}

struct S3UploadBody: Decodable {
    let UploadId: String
}

enum S3Documents {
    static var decoder: XMLDecoder { XMLDecoder(trimValueWhitespaces: false) }

    /// Nil for what is not that document.
    static func read<Document: Decodable>(_ type: Document.Type, _ body: [UInt8]) -> Document? {
        try? decoder.decode(type, from: Data(body))
    }

    /// `Quiet`: only failures are answered.
    static func deletion(of keys: [String]) -> [UInt8] {
        let objects = keys.map { "<Object><Key>\(escaped($0))</Key></Object>" }.joined()
        return Array("<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Quiet>true</Quiet>\(objects)</Delete>".utf8)
    }

    static func completion(partTags: [String]) -> [UInt8] {
        let parts = partTags.enumerated().map { "<Part><PartNumber>\($0 + 1)</PartNumber><ETag>\(escaped($1))</ETag></Part>" }.joined()
        return Array("<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\(parts)</CompleteMultipartUpload>".utf8)
    }

    /// By scalars: a combining mark after `<` makes one Character that equals neither.
    private static func escaped(_ text: String) -> String {
        var result = String.UnicodeScalarView()
        for scalar in text.unicodeScalars {
            switch scalar {
            case "&": result.append(contentsOf: "&amp;".unicodeScalars)
            case "<": result.append(contentsOf: "&lt;".unicodeScalars)
            case ">": result.append(contentsOf: "&gt;".unicodeScalars)
            case "\"": result.append(contentsOf: "&quot;".unicodeScalars)
            default: result.append(scalar)
            }
        }
        return String(result)
    }
}
