// Visits every page of a map once, and goes on behind a damaged one.

struct MapWalk {
    let vault: Vault
    /// False for a page that need not be visited again.
    let enters: (_ id: Hash256) -> Bool
    let onLeaf: (_ leaf: MapLeaf) -> Void
    /// A page that cannot be read, with the blocks it covers.
    let onDamage: (_ id: Hash256, _ blocks: Range<UInt64>, _ reason: String) -> Void

    func visit(_ root: MapRoot) throws(VaultError) {
        try visit(root.id, level: root.level, firstBlock: 0)
    }

    private func visit(_ id: Hash256, level: Int, firstBlock: UInt64) throws(VaultError) {
        guard id != .zero, enters(id) else { return }
        let page: MapPage
        do {
            page = try vault.mapPage(id, level: level, firstBlock: firstBlock)
        } catch {
            guard let damage = error.damage else { throw error }
            onDamage(id, firstBlock..<(firstBlock + MapGeometry.blocks(level: level)), damage.reason)
            return
        }
        switch page {
        case .leaf(let leaf):
            onLeaf(leaf)
        case .inner(let inner):
            for (index, child) in inner.children.enumerated() {
                guard let child else { continue }
                try visit(child, level: level - 1, firstBlock: firstBlock + UInt64(index) * MapGeometry.blocks(level: level - 1))
            }
        }
    }
}
