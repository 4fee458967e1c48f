import Testing

@Suite struct TidyTests {
    @Test func placeholder() { #expect(Bool(true)) }
}
