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

struct S3VersionsBody: Decodable {
    struct Version: Decodable {
        let Key: String
        let VersionId: String
        let IsLatest: Bool
        /// Absent for delete markers, as is the next.
        let ETag: String?
        let Size: UInt64?
    }

    let IsTruncated: Bool
    let EncodingType: String?
    let NextVersionIdMarker: String?
    let Version: [Version]?
    let DeleteMarker: [Version]?
}

struct S3LockRuleBody: Decodable {
    struct Rule: Decodable {
        struct Retention: Decodable {
            let Mode: String
            let Days: Int?
            let Years: Int?
        }

        let DefaultRetention: Retention?
    }

    let ObjectLockEnabled: String?
    let Rule: Rule?
}

enum S3Documents {
    /// `Quiet`: only failures are answered.
    static func deletion(of keys: [(key: String, version: String?)]) -> [UInt8] {
        let objects = keys.map { key, version in
            "<Object><Key>\(XMLDocument.escaped(key))</Key>" + (version.map { "<VersionId>\(XMLDocument.escaped($0))</VersionId>" } ?? "") + "</Object>"
        }.joined()
        return Array("<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Quiet>true</Quiet>\(objects)</Delete>".utf8)
    }

    static func completion(partTags: [String]) -> [UInt8] {
        let parts = partTags.enumerated().map { "<Part><PartNumber>\($0 + 1)</PartNumber><ETag>\(XMLDocument.escaped($1))</ETag></Part>" }.joined()
        return Array("<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\(parts)</CompleteMultipartUpload>".utf8)
    }

    static func retention(_ lock: ObjectLock) -> [UInt8] {
        let until = HTTPDate(secondsSince1970: lock.untilSeconds).rfc3339
        return Array("<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>\(lock.mode.rawValue)</Mode><RetainUntilDate>\(until)</RetainUntilDate></Retention>".utf8)
    }
}
