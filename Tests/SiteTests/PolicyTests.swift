// Policies: what a person writes is what counts, one place for each setting, and a failback policy beside each.

import GRDB
import Site
import Testing

@Suite struct PolicyTests {
    private typealias Moment = BandwidthCalendar.Moment

    @Test func theFirstRuleThatFitsTheMomentCounts() throws {
        let calendar = try BandwidthCalendar("mon-fri 08:00-18:00 20MiB, sat-sun unlimited, 22:00-06:00 1GiB, 100MiB")
        let limits: [(Int, Int, UInt64?)] = [
            (0, 8 * 60, 20 << 20), (4, 18 * 60 - 1, 20 << 20), (4, 18 * 60, 100 << 20), (5, 9 * 60, nil), (6, 23 * 60, nil),
            (2, 23 * 60, 1 << 30), (3, 5 * 60 + 59, 1 << 30), (3, 6 * 60, 100 << 20), (0, 7 * 60 + 59, 100 << 20),
        ]
        for (day, minute, limit) in limits { #expect(calendar.limit(at: Moment(weekday: day, minute: minute)) == limit, "day \(day), minute \(minute)") }
        #expect(try BandwidthCalendar(calendar.text) == calendar)
        #expect(BandwidthCalendar.unlimited.limit(at: Moment(weekday: 0, minute: 0)) == nil)
    }

    /// A window over midnight belongs to the day on which it begins.
    @Test func aNightBelongsToItsEvening() throws {
        let night = try BandwidthCalendar("fri 22:00-06:00 64KiB")
        for (day, hour, isLimited) in [(4, 22, true), (5, 5, true), (5, 6, false), (5, 22, false), (4, 5, false), (4, 21, false)] {
            #expect((night.limit(at: Moment(weekday: day, minute: hour * 60)) != nil) == isLimited, "day \(day), hour \(hour)")
        }
        let weekEnd = try BandwidthCalendar("sat-mon 1MiB")
        #expect((0..<7).filter { weekEnd.limit(at: Moment(weekday: $0, minute: 700)) != nil } == [0, 5, 6])
        #expect(weekEnd.text == "sat-mon 1MiB")
    }

    @Test(arguments: ["", "20", "1KiB", "mon 20MiB x", "mon-fri 8:00-18:00 1MiB", "25:00-26:00 1MiB", "08:00-08:00 1MiB", "foo 1MiB", "1MiB,", "mon-tue-wed 1MiB", "99999999999999999999"])
    func aCalendarOfAnotherFormIsRefused(_ text: String) {
        #expect { try BandwidthCalendar(text) } throws: { ($0 as? SiteError)?.code == .policyWrong }
    }

    @Test func retentionIsReadAndWritten() throws {
        let rules = try RetentionRules("daily:15d,all:2h,hourly:24h,15m:6h")
        #expect(rules.text == "all:2h,15m:6h,hourly:1d,daily:15d")
        #expect(rules.wholeSeconds == 7_200)
        #expect(try RetentionRules("forever").rules.isEmpty && RetentionRules("forever").text == "forever")
        #expect(try RetentionRules("15m:6h").wholeSeconds == 0)
        for text in ["", "all", "all:", "hourly:30m", "all:0h", "daily:1d", "sometimes:2h", "all:2h,,", "all:99999999999w"] {
            #expect(throws: SiteError.self, "\(text)") { try RetentionRules(text) }
        }
    }

    @Test func aPolicyComesWithItsFailbackPolicy() throws {
        let catalogue = try TemporarySite().catalogue()
        #expect(try catalogue.policies().map(\.name) == ["default", "default-failback"])
        var change = PolicyChange(intervalSeconds: 300, retention: try RetentionRules("all:2h"))
        let made = try catalogue.addPolicy(named: "office", change)
        #expect(made.pointSeconds == 300 && made.compression == .automatic)
        #expect(try catalogue.policy(named: "office-failback").parent == "office")
        // By itself, and with its parent.
        _ = try catalogue.changePolicy(named: "office-failback", PolicyChange(rpoSeconds: 600))
        #expect(try catalogue.policy(named: "office").rpoSeconds == nil)
        change = PolicyChange(intervalSeconds: 5, bandwidth: try BandwidthCalendar("1MiB"))
        _ = try catalogue.changePolicy(named: "office", change)
        let failback = try catalogue.policy(named: "office-failback")
        #expect(failback.rpoSeconds == 600 && failback.intervalSeconds == 5 && failback.pointSeconds == 5 && failback.bandwidth.text == "1MiB")
        // It waits: no disk can have it, and it goes only with its parent.
        try catalogue.add(makeDisk("a"))
        #expect { try catalogue.assignPolicy(named: "office-failback", disks: ["a"]) } throws: { ($0 as? SiteError)?.code == .refused }
        #expect { try catalogue.removePolicy(named: "office-failback") } throws: { ($0 as? SiteError)?.code == .refused }
        try catalogue.removePolicy(named: "office")
        #expect(try catalogue.policies().count == 2)
    }

    @Test func aChangeIsSeenByWhoeverLooksAgain() throws {
        let site = try TemporarySite()
        let (admin, worker) = (try site.catalogue(), try site.catalogue())
        try admin.add(makeDisk("a"))
        var second = makeDisk("b")
        second.machine = "a"
        try admin.add(second)
        #expect(try worker.consistencyGroup(ofDisk: "a").pointSeconds == 30)
        _ = try admin.addPolicy(named: "fast", PolicyChange(intervalSeconds: 10, pointSeconds: 2))
        try admin.assignPolicy(named: "fast", disks: ["b"])
        // Points of both come as often as either policy says; each is uploaded by its own.
        #expect(try worker.consistencyGroup(ofDisk: "a").pointSeconds == 2)
        #expect(try worker.disks().map(\.policy.intervalSeconds) == [30, 10])
        _ = try admin.changePolicy(named: "fast", PolicyChange(pointSeconds: 7))
        #expect(try worker.disk(named: "b").policy.pointSeconds == 7)
        #expect { try admin.removePolicy(named: "fast") } throws: { ($0 as? SiteError)?.code == .policyInUse }
        #expect { try admin.removePolicy(named: "default") } throws: { ($0 as? SiteError)?.code == .refused }
        #expect { try admin.assignPolicy(named: "default", disks: ["b", "x"]) } throws: { ($0 as? SiteError)?.code == .diskNotFound }
        #expect(try admin.disk(named: "b").policy.name == "fast")
        for change in [PolicyChange(intervalSeconds: 0), PolicyChange(intervalSeconds: 3_601), PolicyChange(pointSeconds: 0), PolicyChange(rpoSeconds: 29)] {
            #expect { try admin.changePolicy(named: "default", change) } throws: { ($0 as? SiteError)?.code == .policyWrong }
        }
        #expect { try admin.addPolicy(named: "slow", PolicyChange(intervalSeconds: 300, rpoSeconds: 60)) } throws: { "\($0)".contains("more than 1m behind: all the time") }
        // It is no hindrance to a change of something else, and three intervals and a minute are always enough.
        _ = try admin.changePolicy(named: "default", PolicyChange(rpoSeconds: 30))
        #expect { try admin.changePolicy(named: "default", PolicyChange(intervalSeconds: 60)) } throws: { ($0 as? SiteError)?.code == .policyWrong }
        _ = try admin.changePolicy(named: "default", PolicyChange(intervalSeconds: 60, rpoSeconds: 0))
    }

    @Test func theIntervalsOfAnOlderCatalogueBecomePolicies() throws {
        let site = try TemporarySite()
        do {
            let catalogue = try site.catalogue()
            for name in ["a", "b", "c"] { try catalogue.add(makeDisk(name)) }
        }
        let raw = try DatabaseQueue(path: site.directory.cataloguePath)
        try raw.writeWithoutTransaction { database in
            try database.execute(sql: undoTargets + """
                ALTER TABLE disk ADD COLUMN interval_seconds INTEGER NOT NULL DEFAULT 30;
                UPDATE disk SET interval_seconds = 2 WHERE name = 'b';
                ALTER TABLE disk DROP COLUMN policy;
                DROP TABLE policy;
                DROP TABLE resynchronisation;
                ALTER TABLE disk DROP COLUMN role;
                DROP TABLE machine_settings;
                ALTER TABLE replication DROP COLUMN kept_epoch;
                ALTER TABLE replication DROP COLUMN kept_group;
                DELETE FROM grdb_migrations WHERE identifier IN
                    ('4 policies', '5 resynchronisation', '7 recovery disks', '9 machine settings', '10 kept epochs, resync mark, anomalies');
                """)
        }
        try raw.close()
        let catalogue = try site.catalogue()
        #expect(try catalogue.disks().map(\.policy.name) == ["default", "every-2s", "default"])
        #expect(try catalogue.disks().map(\.policy.pointSeconds) == [30, 2, 30])
        // Nobody decided to drop points of these.
        #expect(try catalogue.policies().allSatisfy { $0.retention == .everything })
        #expect(try catalogue.policy(named: "every-2s-failback").parent == "every-2s")
    }

    /// Of a disk that came from another host: under its name where that is free or the same, else under one that tells where it is from.
    @Test func aPolicyFromAnotherHostKeepsItsSettings() throws {
        let catalogue = try TemporarySite().catalogue()
        try catalogue.add(makeDisk("a"))
        let vault = try catalogue.disk(named: "a").vaultID
        let office = Policy(name: "office", intervalSeconds: 7, rpoSeconds: 90)
        try catalogue.adopt(office, failback: Policy(name: "office-failback", parent: "office", intervalSeconds: 9), ofDisk: "a", atVault: vault, from: "alpha")
        #expect(try catalogue.disk(named: "a").policy == office)
        #expect(try catalogue.policy(named: "office-failback").intervalSeconds == 9 && catalogue.policy(named: "office-failback").parent == "office")
        // Another one that is called so here stays as it is.
        _ = try catalogue.changePolicy(named: "default", PolicyChange(intervalSeconds: 3))
        let own = try catalogue.policies()
        for interval in [20, 21] {
            try catalogue.adopt(Policy(name: "default", intervalSeconds: interval), failback: nil, ofDisk: "a", atVault: vault, from: "alpha beta/é")
            #expect(try catalogue.disk(named: "a").policy == Policy(name: "default-of-alpha-beta--", intervalSeconds: interval))
            #expect(try catalogue.policy(named: "default-of-alpha-beta---failback").intervalSeconds == interval)
        }
        for policy in own { #expect(try catalogue.policy(named: policy.name) == policy) }
        try catalogue.assignPolicy(ofDisk: "a", away: true)
        #expect(try catalogue.disk(named: "a").policy.name == "default-of-alpha-beta---failback")
        // The same settings need no other name.
        try catalogue.adopt(Policy(name: "default", intervalSeconds: 3), failback: nil, ofDisk: "a", atVault: vault, from: "alpha")
        #expect(try catalogue.disk(named: "a").policy.name == "default")
        // What is shortened stays apart.
        var names: Set<String> = []
        for host in ["db-production-site-1", "db-production-site-2"] {
            for end in ["gold", "silver"] {
                let long = String(repeating: "tier-one-", count: 4) + end
                _ = try? catalogue.addPolicy(named: long, PolicyChange(intervalSeconds: 5))
                try catalogue.adopt(Policy(name: long, intervalSeconds: 31), failback: nil, ofDisk: "a", atVault: vault, from: host)
                names.insert(try catalogue.disk(named: "a").policy.name)
            }
        }
        #expect(names.count == 4 && names.allSatisfy { $0.count <= 50 }, "\(names)")
    }
}
