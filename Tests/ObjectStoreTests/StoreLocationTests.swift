// Vault URLs: what they name, and which are refused.

import ObjectStore
import Testing

@Suite struct StoreLocationTests {
    @Test func directories() throws {
        #expect(try StoreLocation("file:///srv/vault") == .directory(path: "/srv/vault"))
        #expect(try StoreLocation("file:///srv/my%20vault//") == .directory(path: "/srv/my vault"))
        #expect(try StoreLocation("file:///") == .directory(path: "/"))
    }

    @Test func buckets() throws {
        let url = "s3://backups/site-a/disks/?endpoint=http://127.0.0.1:8480&region=eu-west-1&ca=/etc/my%20ca.pem&profile=vault"
        guard case .s3(let location) = try StoreLocation(url) else { throw Mismatch() }
        #expect(location.bucket == "backups")
        #expect(location.prefix == "site-a/disks/")
        #expect(location.endpoint.description == "http://127.0.0.1:8480")
        #expect(location.region == "eu-west-1")
        #expect(location.authoritiesFile == "/etc/my ca.pem")
        #expect(location.profile == "vault")

        guard case .s3(let plain) = try StoreLocation("s3://backups") else { throw Mismatch() }
        #expect(plain.prefix.isEmpty)
        #expect(plain.endpoint.description == "https://s3.us-east-1.amazonaws.com")

        guard case .s3(let six) = try StoreLocation("s3://backups?endpoint=https://[::1]:9000/") else { throw Mismatch() }
        #expect(six.endpoint.host == "[::1]" && six.endpoint.port == 9000 && six.endpoint.usesTLS)
    }

    @Test(arguments: [
        "", "vault", "/srv/vault", "ftp://x/y", "file://srv/vault", "file:///a?x=1", "file:///a%2", "file:///a%00", "s3://", "s3:///prefix", "s3://b",
        "s3://bu cket/x", "s3://key:secret@bucket/x", "s3://bucket/../x", "s3://bucket/a//b", "s3://bucket?endpoint=127.0.0.1:80", "s3://bucket?endpoint=http://",
        "s3://bucket?endpoint=http://h:0", "s3://bucket?endpoint=http://h:99999", "s3://bucket?endpoint=http://u:p@h:1", "s3://bucket?endpoint=http://h/path",
        "s3://bucket?region=", "s3://bucket?region=a/b", "s3://bucket?secret=x", "s3://bucket?region=a&region=b", "s3://bucket?region",
    ])
    func refused(_ url: String) {
        expectCode(.badLocation) { _ = try StoreLocation(url) }
    }

    @Test func chunksApart() throws {
        let whole = try SplitURL("s3://logs/a?region=eu-west-1")
        #expect((whole.main, whole.chunks) == ("s3://logs/a?region=eu-west-1", nil))
        for main in ["file:///srv/logs", "s3://logs/a?endpoint=http://h:1&region=x"] {
            for chunks in ["file:///mnt/a b", "s3://bulk?endpoint=http://h:2&profile=bulk", "azblob://account7/bulk/50%25"] {
                let both = try SplitURL(SplitURL.joined(main, chunks: chunks))
                #expect((both.main, both.chunks) == (main, chunks))
            }
        }
        let middle = try SplitURL("s3://logs?region=x&chunks=file:///mnt/b&profile=p")
        #expect((middle.main, middle.chunks) == ("s3://logs?region=x&profile=p", "file:///mnt/b"))
    }

    @Test(arguments: [
        "file:///a?chunks=", "file:///a?chunks=%zz", "file:///a?chunks=file:///b&chunks=file:///c", "file:///a?chunks=file:///b%3Fchunks=file:///c", "file:///a?chunks=file:///a/",
        "file:///a?chunks=nothing",
    ])
    func chunksApartRefused(_ url: String) {
        expectCode(.badLocation) { _ = try openStore(url: url) }
    }

    @Test func secretsInURLsAreNotRepeated() {
        let error = expectCode(.badLocation) { _ = try StoreLocation("s3://AKIA:topsecret@bucket/x") }
        #expect(error.map { !$0.message.contains("topsecret") } == true)
    }

    @Test func containers() throws {
        guard case .azure(let plain) = try StoreLocation("azblob://account7/my-container") else { throw Mismatch() }
        #expect((plain.account, plain.container, plain.prefix, plain.accountPath) == ("account7", "my-container", "", ""))
        #expect(plain.endpoint.description == "https://account7.blob.core.windows.net")

        let url = "azblob://account7/disks/site-a/b%20c/?endpoint=http://127.0.0.1:10000/account7&ca=/etc/ca.pem&credentials=/etc/farshore/azure"
        guard case .azure(let location) = try StoreLocation(url) else { throw Mismatch() }
        #expect((location.container, location.prefix, location.accountPath) == ("disks", "site-a/b c/", "/account7"))
        #expect(location.endpoint.description == "http://127.0.0.1:10000")
        #expect((location.authoritiesFile, location.credentialsFile) == ("/etc/ca.pem", "/etc/farshore/azure"))

        guard case .azure(let named) = try StoreLocation("azblob://vaults/disks?endpoint=https://vaults") else { throw Mismatch() }
        #expect(named.endpoint.description == "https://vaults" && named.accountPath.isEmpty)
    }

    @Test(arguments: [
        "azblob://", "azblob://account", "azblob://Account/container", "azblob://ac/container", "azblob://account/Container", "azblob://account/c",
        "azblob://account/-container", "azblob://account/con--tainer", "azblob://account/container/a/../b", "azblob://account/container/ends./x",
        "azblob://account/container/back%5Cslash", "azblob://account/container?endpoint=http://h/other", "azblob://account/container?region=r",
        "azblob://account:key@account/container", "azblob://account/container?sv=2022-11-02&sig=topsecret",
    ])
    func refusedOfAzure(_ url: String) {
        let error = expectCode(.badLocation) { _ = try StoreLocation(url) }
        #expect(error.map { !$0.message.contains("topsecret") } == true)
    }

    private struct Mismatch: Error {}
}
