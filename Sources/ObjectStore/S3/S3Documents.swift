// The XML documents of S3.

struct S3ErrorBody: Decodable {
    let Code: String
    let Message: String?
    let Region: String?
    let Endpoint: String?

    init?(_ body: [UInt8]) {
        guard let read = XMLDocument.read(Self.self, body) else { return nil }
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
    /// `Quiet`: only failures are answered.
    static func deletion(of keys: [String]) -> [UInt8] {
        let objects = keys.map { "<Object><Key>\(XMLDocument.escaped($0))</Key></Object>" }.joined()
        return Array("<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Quiet>true</Quiet>\(objects)</Delete>".utf8)
    }

    static func completion(partTags: [String]) -> [UInt8] {
        let parts = partTags.enumerated().map { "<Part><PartNumber>\($0 + 1)</PartNumber><ETag>\(XMLDocument.escaped($1))</ETag></Part>" }.joined()
        return Array("<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\(parts)</CompleteMultipartUpload>".utf8)
    }
}
