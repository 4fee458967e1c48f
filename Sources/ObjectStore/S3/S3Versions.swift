// Versions and locks of an S3 bucket. A key that was written over has several versions; one that was deleted has a delete marker over them.

extension S3Store {
    package var versions: (any ObjectVersions)? { self }
}

extension S3Store: ObjectVersions {
    package func lockRule() throws(StoreError) -> LockRule? {
        let answer: TargetAnswer
        do throws(StoreError) {
            answer = try succeed(TargetRequest(.get, path: bucketPath, query: [("object-lock", "")]), "GET of the bucket's object lock")
        } catch where error.code == .notFound || error.code == .unsupported {
            return nil
        }
        guard let body = XMLDocument.read(S3LockRuleBody.self, answer.body), body.ObjectLockEnabled == "Enabled" else { return nil }
        guard let rule = body.Rule?.DefaultRetention else { return LockRule(mode: nil, days: 0) }
        guard let mode = LockMode(rawValue: rule.Mode) else { throw damaged("GET of the bucket's object lock") }
        return LockRule(mode: mode, days: rule.Days ?? (rule.Years ?? 0) * 365)
    }

    package func listVersions(prefix: String, after: VersionMark?) throws(StoreError) -> VersionPage {
        try ObjectKey.checkPrefix(prefix)
        var query = [
            (name: "versions", value: ""), (name: "prefix", value: place.prefix + prefix), (name: "max-keys", value: "\(ObjectLimits.listPageKeys)"),
            (name: "encoding-type", value: "url"),
        ]
        if let after {
            query.append((name: "key-marker", value: place.prefix + after.key))
            if let version = after.version { query.append((name: "version-id-marker", value: version)) }
        }
        let answer = try succeed(TargetRequest(.get, path: bucketPath, query: query, answerBytesMax: 8 << 20), "list of the versions of \(prefix)")
        guard let page = XMLDocument.read(S3VersionsBody.self, answer.body) else { throw damaged("list of versions") }
        var found: [ObjectVersion] = []
        for (list, isMarker) in [(page.Version ?? [], false), (page.DeleteMarker ?? [], true)] {
            for version in list {
                guard let key = page.EncodingType == "url" ? formDecoded(version.Key) : version.Key, key.utf8.starts(with: (place.prefix + prefix).utf8) else {
                    throw damaged("list of versions")
                }
                let own = String(decoding: key.utf8.dropFirst(place.prefix.utf8.count), as: UTF8.self)
                let tag = (version.ETag ?? "").filter { $0 != "\"" }
                found.append(ObjectVersion(key: own, id: version.VersionId, isNewest: version.IsLatest, isMarker: isMarker, sizeBytes: version.Size ?? 0, tag: tag))
            }
        }
        // Targets mix both kinds, or write one behind the other; each kind is newest first.
        let sorted = found.enumerated().sorted { one, other in
            one.element.key == other.element.key ? one.offset < other.offset : ObjectKey.isBefore(one.element.key, other.element.key)
        }.map(\.element)
        guard page.IsTruncated else { return VersionPage(versions: sorted, next: nil) }
        // The last key is where the next page begins: what targets call the next one, some encode and some do not.
        guard let last = sorted.last?.key else { throw damaged("list of versions") }
        return VersionPage(versions: sorted, next: VersionMark(key: last, version: page.NextVersionIdMarker.flatMap { $0.isEmpty ? nil : $0 }))
    }

    package func get(_ version: ObjectVersion) throws(StoreError) -> [UInt8] {
        let request = TargetRequest(.get, path: path(version.key), query: [("versionId", version.id)], answerBytesMax: ObjectLimits.objectBytesMax)
        return try succeed(request, "GET of version \(version.id) of \(version.key)").body
    }

    package func lock(of version: ObjectVersion) throws(StoreError) -> ObjectLock? {
        let answer = try succeed(TargetRequest(.head, path: path(version.key), query: [("versionId", version.id)]), "HEAD of version \(version.id) of \(version.key)")
        guard let mode = answer.headers["x-amz-object-lock-mode"] else { return nil }
        guard let mode = LockMode(rawValue: mode), let until = answer.headers["x-amz-object-lock-retain-until-date"].flatMap(HTTPDate.init(rfc3339:)) else {
            throw damaged("HEAD of a locked object")
        }
        return ObjectLock(mode: mode, untilSeconds: until.secondsSince1970)
    }

    package func setLock(_ lock: ObjectLock, of version: ObjectVersion) throws(StoreError) {
        let request = TargetRequest(
            .put, path: path(version.key), query: [("retention", ""), ("versionId", version.id)], headers: [("content-type", "application/xml")],
            body: S3Documents.retention(lock))
        try succeed(request, "lock of version \(version.id) of \(version.key)")
    }

    package func bringBack(_ version: ObjectVersion) throws(StoreError) {
        let source = "\(path(version.key))?versionId=\(percentEncoded(version.id, keepingSlash: false))"
        let what = "copy of version \(version.id) of \(version.key)"
        let answer = try succeed(TargetRequest(.put, path: path(version.key), headers: [("x-amz-copy-source", source)]), what)
        // The status is sent before the work is done, so a failure can follow a 200.
        if S3ErrorBody(answer.body) != nil { throw failure(TargetAnswer(status: 500, headers: answer.headers, body: answer.body), what) }
    }

    package func remove(_ versions: [ObjectVersion]) throws(StoreError) {
        var rest = versions[...]
        while !rest.isEmpty {
            try delete(rest.prefix(ObjectLimits.listPageKeys).map { ($0.key, $0.id) })
            rest = rest.dropFirst(ObjectLimits.listPageKeys)
        }
    }
}
