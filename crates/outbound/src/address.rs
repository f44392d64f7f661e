//! Which addresses are public. The table is IANA's special-purpose registries, as of 2026.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Addresses of IPv4 that no user may have the hall call, and what they are.
const NOT_PUBLIC_V4: [(Ipv4Net, &str); 16] = [
    (v4(0, 0, 0, 0, 8), "unspecified"),
    (v4(10, 0, 0, 0, 8), "private"),
    (v4(100, 64, 0, 0, 10), "private (carrier NAT)"),
    (v4(127, 0, 0, 0, 8), "loopback"),
    (v4(169, 254, 0, 0, 16), "link-local (cloud metadata is there)"),
    (v4(172, 16, 0, 0, 12), "private"),
    (v4(192, 0, 0, 0, 24), "reserved"),
    (v4(192, 0, 2, 0, 24), "for documentation"),
    (v4(192, 88, 99, 0, 24), "reserved"),
    (v4(192, 168, 0, 0, 16), "private"),
    (v4(198, 18, 0, 0, 15), "for benchmarks"),
    (v4(198, 51, 100, 0, 24), "for documentation"),
    (v4(203, 0, 113, 0, 24), "for documentation"),
    (v4(224, 0, 0, 0, 4), "multicast"),
    (v4(240, 0, 0, 0, 4), "reserved"),
    // Azure's platform address: public by its number, answered by the host a virtual machine runs on.
    (v4(168, 63, 129, 16, 32), "cloud metadata"),
];

/// Of IPv6 only global unicast is public at all, less these.
const GLOBAL_UNICAST_V6: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);
const NOT_PUBLIC_V6: [(Ipv6Net, &str); 3] = [
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), "reserved"),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), "for documentation"),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), "for documentation"),
];

/// Forms of IPv6 that carry an IPv4 address which the packet ends up at, and the group where it begins.
const CARRIES_V4: [(Ipv6Net, usize); 4] = [
    // mapped
    (v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96), 6),
    // translated (SIIT)
    (v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96), 6),
    // NAT64
    (v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96), 6),
    // 6to4
    (v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), 1),
];

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(groups: [u16; 8], prefix: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = groups;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix)
}

/// The table, and the operator's exceptions to it.
#[derive(Debug, Default)]
pub struct AddressRules {
    exceptions: Vec<IpNet>,
}

impl AddressRules {
    pub fn new(exceptions: Vec<IpNet>) -> Self {
        Self { exceptions }
    }

    /// What makes `address` one that must not be called; `None`: it may be.
    pub fn objection(&self, address: IpAddr) -> Option<&'static str> {
        let carried = carried(address);
        let excepted = |address: &IpAddr| self.exceptions.iter().any(|network| network.contains(address));
        if excepted(&address) || carried.as_ref().is_some_and(excepted) {
            return None;
        }
        match carried.unwrap_or(address) {
            IpAddr::V4(address) => not_public(&NOT_PUBLIC_V4, |network| network.contains(&address)),
            IpAddr::V6(address) if !GLOBAL_UNICAST_V6.contains(&address) => Some(kind_of_local(address)),
            IpAddr::V6(address) => not_public(&NOT_PUBLIC_V6, |network| network.contains(&address)),
        }
    }
}

fn not_public<N>(table: &[(N, &'static str)], contains: impl Fn(&N) -> bool) -> Option<&'static str> {
    table.iter().find(|(network, _)| contains(network)).map(|(_, kind)| *kind)
}

fn carried(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(address) = address else { return None };
    let (_, first) = CARRIES_V4.iter().find(|(network, _)| network.contains(&address))?;
    let groups = address.segments();
    let [a, b] = groups[*first].to_be_bytes();
    let [c, d] = groups[first + 1].to_be_bytes();
    Some(Ipv4Addr::new(a, b, c, d).into())
}

fn kind_of_local(address: Ipv6Addr) -> &'static str {
    if address.is_loopback() {
        "loopback"
    } else if address.is_unspecified() {
        "unspecified"
    } else if address.is_multicast() {
        "multicast"
    } else if address.is_unicast_link_local() {
        "link-local"
    } else if address.is_unique_local() {
        "private"
    } else {
        "reserved"
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn objection(address: &str) -> Option<&'static str> {
        AddressRules::default().objection(address.parse().unwrap())
    }

    #[test]
    fn public_addresses_may_be_called() {
        for public in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "223.255.255.255",
            "2606:4700:4700::1111",
            "2a00:1450:4001::",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
        ] {
            assert_eq!(objection(public), None, "{public}");
        }
    }

    #[test]
    fn the_edges_of_every_network_that_is_not_public_are_refused() {
        for (network, _) in NOT_PUBLIC_V4 {
            for address in [network.network(), network.broadcast()] {
                assert!(objection(&address.to_string()).is_some(), "{address}");
            }
        }
        for (network, _) in NOT_PUBLIC_V6 {
            for address in [network.network(), network.broadcast()] {
                assert!(objection(&address.to_string()).is_some(), "{address}");
            }
        }
        for local in
            ["::", "::1", "fe80::1", "fc00::", "fd00:ec2::254", "ff02::1", "100::1", "::8.8.8.8", "64:ff9b:1::"]
        {
            assert!(objection(local).is_some(), "{local}");
        }
    }

    #[test]
    fn an_exception_opens_its_network_in_every_form_and_no_other() {
        let rules = AddressRules::new(vec!["10.1.0.0/16".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        let objection = |address: &str| rules.objection(address.parse().unwrap());
        for open in ["10.1.2.3", "::ffff:10.1.2.3", "fd12::1"] {
            assert_eq!(objection(open), None, "{open}");
        }
        for closed in ["10.2.0.0", "::ffff:10.2.0.0", "127.0.0.1", "fc00::1"] {
            assert!(objection(closed).is_some(), "{closed}");
        }
    }

    proptest! {
        #[test]
        fn an_address_is_judged_alike_in_every_form_that_carries_it(bits in any::<u32>()) {
            let rules = AddressRules::default();
            let plain = Ipv4Addr::from(bits);
            let verdict = rules.objection(plain.into());
            let [a, b, ..] = Ipv6Addr::from(u128::from(bits) << 96).segments();
            for carrier in [
                Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, a, b),
                Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, a, b),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, a, b),
                Ipv6Addr::new(0x2002, a, b, 0, 0, 0, 0, 1),
            ] {
                prop_assert_eq!(rules.objection(carrier.into()), verdict, "{}", carrier);
            }
        }
    }
}
