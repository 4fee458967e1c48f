// Objects above 64 MiB go up in parts. An upload that fails is ended, so its parts do not cost storage; when even that
// fails (the host dies) the bucket's own rule for incomplete uploads is the net.

extension S3Store {
    static let partBytes = 16 << 20

    func putInParts(_ key: String, _ bytes: [UInt8]) throws(StoreError) {
        let started = try succeed(TargetRequest(.post, path: path(key), query: [("uploads", "")]), "start of the upload of \(key)")
        guard let upload = XMLDocument.read(S3UploadBody.self, started.body)?.UploadId else { throw damaged("start of an upload") }
        do throws(StoreError) {
            var tags: [String] = []
            for offset in stride(from: 0, to: bytes.count, by: Self.partBytes) {
                let part = Array(bytes[offset..<min(offset + Self.partBytes, bytes.count)])
                tags.append(try putPart(key, upload: upload, number: tags.count + 1, part))
            }
            try complete(key, upload: upload, tags)
        } catch {
            try end(key, upload: upload, after: error)
        }
    }

    private func putPart(_ key: String, upload: String, number: Int, _ bytes: [UInt8]) throws(StoreError) -> String {
        let query = [(name: "partNumber", value: "\(number)"), (name: "uploadId", value: upload)]
        let answer = try succeed(TargetRequest(.put, path: path(key), query: query, body: bytes), "PUT of part \(number) of \(key)")
        guard let tag = answer.headers["etag"] else { throw damaged("part") }
        return tag
    }

    private func complete(_ key: String, upload: String, _ tags: [String]) throws(StoreError) {
        let request = TargetRequest(
            .post, path: path(key), query: [("uploadId", upload)], headers: [("content-type", "application/xml")], body: S3Documents.completion(partTags: tags))
        let answer = try succeed(request, "end of the upload of \(key)")
        // The status is sent before the work is done, so a failure can follow a 200.
        if S3ErrorBody(answer.body) != nil { throw failure(TargetAnswer(status: 500, headers: answer.headers, body: answer.body), "end of the upload of \(key)") }
    }

    private func end(_ key: String, upload: String, after cause: StoreError) throws(StoreError) -> Never {
        do throws(StoreError) {
            try succeed(TargetRequest(.delete, path: path(key), query: [("uploadId", upload)]), "abort of the upload of \(key)")
        } catch {
            throw StoreError(cause.code, "\(cause.message); its parts could not be removed: \(error.message)", try: cause.remedy)
        }
        throw cause
    }
}
