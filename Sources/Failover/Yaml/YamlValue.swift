// YAML as people write plans and site files in, read by libyaml into plain values. Anchors, aliases, tags and several documents in
// one text are refused: what stands in the text is all there is to it. JSON is YAML too.

import CYaml

package struct YamlError: Error, Equatable, CustomStringConvertible {
    package let line: Int
    package let reason: String

    package var description: String { "line \(line): \(reason)" }
}

package struct YamlValue: Equatable, Sendable {
    package indirect enum Content: Equatable, Sendable {
        case text(String)
        case list([YamlValue])
        case map([Entry])
    }

    package struct Entry: Equatable, Sendable {
        package let key: String
        package let value: YamlValue
    }

    package let content: Content
    package let line: Int

    package static let textBytesMax = 1 << 20
    private static let depthMax = 16
    private static let valuesMax = 50_000

    package static func parse(_ text: String) throws(YamlError) -> YamlValue {
        let bytes = Array(text.utf8)
        guard bytes.count <= textBytesMax else { throw YamlError(line: 1, reason: "the text has \(bytes.count) bytes, the limit is \(textBytesMax)") }
        var parser = yaml_parser_t()
        guard yaml_parser_initialize(&parser) == 1 else { throw YamlError(line: 1, reason: "no memory for a parser") }
        defer { yaml_parser_delete(&parser) }
        var result: Result<YamlValue, YamlError> = .failure(YamlError(line: 1, reason: "the text is empty"))
        bytes.withUnsafeBufferPointer { buffer in
            yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING)
            yaml_parser_set_input_string(&parser, buffer.baseAddress, buffer.count)
            var reader = Reader(parser: &parser)
            do throws(YamlError) { result = .success(try reader.document()) } catch { result = .failure(error) }
        }
        return try result.get()
    }

    /// Pulls events; each one is looked at and given back at once.
    private struct Reader {
        private enum Event: Equatable {
            case beginning, end, documentStart, documentEnd, listStart, listEnd, mapStart, mapEnd
            case scalar(String)
        }

        let parser: UnsafeMutablePointer<yaml_parser_t>
        private var left = YamlValue.valuesMax
        private var line = 1

        init(parser: UnsafeMutablePointer<yaml_parser_t>) { self.parser = parser }

        mutating func document() throws(YamlError) -> YamlValue {
            guard try next() == .beginning else { throw wrong("no text") }
            guard try next() == .documentStart else { throw wrong("the text is empty") }
            let value = try value(try next(), depth: 0)
            guard try next() == .documentEnd else { throw wrong("no end of the document") }
            guard try next() == .end else { throw wrong("a second document") }
            return value
        }

        private mutating func value(_ event: Event, depth: Int) throws(YamlError) -> YamlValue {
            let began = line
            left -= 1
            guard left > 0, depth <= YamlValue.depthMax else { throw wrong("too many values, or too deep") }
            switch event {
            case .scalar(let text): return YamlValue(content: .text(text), line: began)
            case .listStart:
                var values: [YamlValue] = []
                while true {
                    let event = try next()
                    if event == .listEnd { return YamlValue(content: .list(values), line: began) }
                    values.append(try value(event, depth: depth + 1))
                }
            case .mapStart:
                var entries: [Entry] = []
                while true {
                    let event = try next()
                    if event == .mapEnd { return YamlValue(content: .map(entries), line: began) }
                    guard case .scalar(let key) = event else { throw wrong("a key that is no text") }
                    guard !entries.contains(where: { $0.key == key }) else { throw wrong("\(key) a second time") }
                    entries.append(Entry(key: key, value: try value(try next(), depth: depth + 1)))
                }
            default: throw wrong("a value is missing")
            }
        }

        private mutating func next() throws(YamlError) -> Event {
            var event = yaml_event_t()
            guard yaml_parser_parse(parser, &event) == 1 else {
                let problem = parser.pointee.problem.map { String(cString: $0) } ?? "it cannot be read"
                throw YamlError(line: Int(parser.pointee.problem_mark.line) + 1, reason: problem)
            }
            defer { yaml_event_delete(&event) }
            line = Int(event.start_mark.line) + 1
            switch event.type {
            case YAML_STREAM_START_EVENT: return .beginning
            case YAML_STREAM_END_EVENT: return .end
            case YAML_DOCUMENT_START_EVENT: return .documentStart
            case YAML_DOCUMENT_END_EVENT: return .documentEnd
            case YAML_SEQUENCE_START_EVENT:
                try refuseMarks(event.data.sequence_start.anchor, event.data.sequence_start.tag)
                return .listStart
            case YAML_SEQUENCE_END_EVENT: return .listEnd
            case YAML_MAPPING_START_EVENT:
                try refuseMarks(event.data.mapping_start.anchor, event.data.mapping_start.tag)
                return .mapStart
            case YAML_MAPPING_END_EVENT: return .mapEnd
            case YAML_SCALAR_EVENT:
                let scalar = event.data.scalar
                try refuseMarks(scalar.anchor, scalar.tag)
                return .scalar(String(decoding: UnsafeBufferPointer(start: scalar.value, count: scalar.length), as: UTF8.self))
            default: throw wrong("an alias; write the value out")
            }
        }

        private func refuseMarks(_ anchor: UnsafeMutablePointer<yaml_char_t>?, _ tag: UnsafeMutablePointer<yaml_char_t>?) throws(YamlError) {
            if anchor != nil { throw wrong("an anchor; write the value out") }
            if tag != nil { throw wrong("a tag") }
        }

        private func wrong(_ reason: String) -> YamlError { YamlError(line: line, reason: reason) }
    }
}

// MARK: - Reading values

extension YamlValue {
    package func wrong(_ reason: String) -> YamlError { YamlError(line: line, reason: reason) }

    package func text(_ what: String) throws(YamlError) -> String {
        guard case .text(let text) = content else { throw wrong("\(what) is a text") }
        return text
    }

    package func list(_ what: String) throws(YamlError) -> [YamlValue] {
        guard case .list(let values) = content else { throw wrong("\(what) is a list") }
        return values
    }

    /// A map with no other keys than those `known`.
    package func map(_ what: String, known: Set<String>) throws(YamlError) -> [String: YamlValue] {
        guard case .map(let entries) = content else { throw wrong("\(what) is a map") }
        if let other = entries.first(where: { !known.contains($0.key) }) {
            throw other.value.wrong("\(what) knows no \(other.key.debugDescription), only \(known.sorted().joined(separator: ", "))")
        }
        return Dictionary(uniqueKeysWithValues: entries.map { ($0.key, $0.value) })
    }
}

// MARK: - Writing

extension YamlValue {
    /// As a text that reads as the same value.
    package var document: String { lines.joined(separator: "\n") + "\n" }

    private var lines: [String] {
        switch content {
        case .text(let text): return [Self.quoted(text)]
        case .list(let values):
            if values.isEmpty { return ["[]"] }
            return values.flatMap { value in value.lines.enumerated().map { ($0.offset == 0 ? "- " : "  ") + $0.element } }
        case .map(let entries):
            if entries.isEmpty { return ["{}"] }
            return entries.flatMap { entry -> [String] in
                let (key, lines) = (Self.quoted(entry.key), entry.value.lines)
                if lines.count == 1, !entry.value.isNested { return ["\(key): \(lines[0])"] }
                return ["\(key):"] + lines.map { "  " + $0 }
            }
        }
    }

    private var isNested: Bool {
        switch content {
        case .text: false
        case .list(let values): !values.isEmpty
        case .map(let entries): !entries.isEmpty
        }
    }

    /// Plain where that reads as nothing else.
    private static func quoted(_ text: String) -> String {
        func isPlain(_ byte: UInt8) -> Bool { (48...57).contains(byte) || (65...90).contains(byte) || (97...122).contains(byte) || [45, 46, 47, 95].contains(byte) }
        if let first = text.utf8.first, first != 45, text.utf8.allSatisfy(isPlain) { return text }
        var found = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": found += "\\\""
            case "\\": found += "\\\\"
            case "\n": found += "\\n"
            case _ where scalar.value < 32 || (127...160).contains(scalar.value) || [0x2028, 0x2029, 0xfeff].contains(scalar.value):
                let digits = String(scalar.value, radix: 16)
                found += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: found.unicodeScalars.append(scalar)
            }
        }
        return found + "\""
    }
}
