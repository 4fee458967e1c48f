// IPv4 and IPv6 addresses as text.

import Glibc

package enum IPAddress {
    package static func isValid(_ text: String) -> Bool {
        var place = in6_addr()
        return inet_pton(AF_INET, text, &place) == 1 || inet_pton(AF_INET6, text, &place) == 1
    }
}
