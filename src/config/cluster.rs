//! `--initial-cluster`: who founds a cluster, by name and peer URLs.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;

use super::url::{self, Url};

/// Founding members by name. A name may come with several URLs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InitialCluster {
    /// Peer URLs by member name, sorted.
    pub members: BTreeMap<String, Vec<Url>>,
}

impl InitialCluster {
    /// This member alone.
    pub fn alone(name: &str, peer_urls: &[Url]) -> InitialCluster {
        InitialCluster { members: BTreeMap::from([(name.to_owned(), peer_urls.to_vec())]) }
    }

    /// Reads `name=url,name=url,...`. Nothing between two commas is passed over.
    pub fn parse(text: &str) -> Result<InitialCluster, String> {
        let mut members: BTreeMap<String, Vec<Url>> = BTreeMap::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (name, url) = part.split_once('=').unwrap_or((part, ""));
            members.entry(name.to_owned()).or_default().push(Url::parse(url)?);
        }
        members.values_mut().for_each(|urls| urls.sort_by_cached_key(Url::to_string));
        Ok(InitialCluster { members })
    }

    /// What a member must fulfil that joins a cluster: it is listed, and no URL is used twice. Its own URLs.
    pub fn check_joiner(&self, name: &str) -> Result<&[Url], String> {
        let Some(listed) = self.members.get(name) else {
            return Err(format!(
                "couldn't find local name {name:?} in the initial cluster configuration: --initial-cluster names {}; \
                 start this member with one of these as --name",
                self.members.keys().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
            ));
        };
        let all: Vec<&Url> = self.members.values().flatten().collect();
        if let Some((at, _)) = all.iter().enumerate().find(|(at, url)| all[..*at].contains(url)) {
            return Err(format!("initial cluster {self} has duplicate url {}", all[at]));
        }
        Ok(listed)
    }

    /// What a founding member must fulfil: it is listed, with just the peer URLs it advertises, and no URL is used
    /// twice. Host names count as equal when `same_place` says they lead to one place, which is asked only where they
    /// are not written alike.
    pub fn check(
        &self,
        name: &str,
        advertised: &[Url],
        same_place: impl Fn(&Url, &Url) -> bool,
    ) -> Result<(), String> {
        let listed = self.check_joiner(name)?;
        let Some(why) = difference(advertised, listed, same_place) else { return Ok(()) };
        let all = url::join(advertised);
        let lacking = |these: &[Url], those: &[Url]| -> Vec<String> {
            these.iter().filter(|url| !those.contains(url)).map(Url::to_string).collect()
        };
        let (extra, missing) = (lacking(listed, advertised), lacking(advertised, listed));
        let named =
            |urls: &[String]| urls.iter().map(|url| format!("{name}={url}")).collect::<Vec<_>>().join(",");
        if !extra.is_empty() {
            return Err(format!(
                "--initial-cluster has {} but missing from --initial-advertise-peer-urls={all} ({why})",
                named(&extra)
            ));
        }
        let own = InitialCluster::alone(name, advertised);
        Err(format!(
            "--initial-advertise-peer-urls has {} but missing from --initial-cluster={own}",
            missing.join(",")
        ))
    }
}

/// What differs between the places to which two lists of URLs lead.
fn difference(these: &[Url], those: &[Url], same_place: impl Fn(&Url, &Url) -> bool) -> Option<String> {
    if these.len() != those.len() {
        let shown = |urls: &[Url]| {
            let quoted: Vec<String> = urls.iter().map(|url| format!("{:?}", url.to_string())).collect();
            quoted.join(" ")
        };
        return Some(format!("len([{}]) != len([{}])", shown(these), shown(those)));
    }
    let leads = |url: &Url, to: &[Url]| to.contains(url) || to.iter().any(|other| same_place(url, other));
    let mut pairs = these.iter().zip(those);
    let (this, that) = pairs.find(|(this, that)| !leads(this, those) || !leads(that, these))?;
    Some(format!("resolved urls: {:?} != {:?}", this.to_string(), that.to_string()))
}

impl fmt::Display for InitialCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs =
            self.members.iter().flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}")));
        f.write_str(&pairs.collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(cluster: &str, name: &str, advertised: &str) -> Result<(), String> {
        let cluster = InitialCluster::parse(cluster).unwrap();
        cluster.check(name, &Url::parse_list(advertised).unwrap(), |a, b| a == b)
    }

    #[test]
    fn a_founder_is_listed_with_what_it_advertises() {
        assert_eq!(check("a=http://h:1,a=http://h:2,b=http://g:1", "a", "http://h:2,http://h:1"), Ok(()));
        for (cluster, name, advertised, complaint) in [
            (
                "a=http://h:1",
                "b",
                "http://h:1",
                "couldn't find local name \"b\" in the initial cluster configuration: --initial-cluster names \"a\"; \
                 start this member with one of these as --name",
            ),
            (
                "a=http://h:1",
                "a",
                "http://h:1,http://h:2",
                "--initial-advertise-peer-urls has http://h:2 but missing from \
                 --initial-cluster=a=http://h:1,a=http://h:2",
            ),
            (
                "a=http://h:1,a=http://h:2",
                "a",
                "http://h:1",
                "--initial-cluster has a=http://h:2 but missing from --initial-advertise-peer-urls=http://h:1 \
                 (len([\"http://h:1\"]) != len([\"http://h:1\" \"http://h:2\"]))",
            ),
            (
                "a=http://h:1",
                "a",
                "http://h:2",
                "--initial-cluster has a=http://h:1 but missing from --initial-advertise-peer-urls=http://h:2 \
                 (resolved urls: \"http://h:2\" != \"http://h:1\")",
            ),
            (
                "a=http://h:1,b=http://h:1",
                "a",
                "http://h:1",
                "initial cluster a=http://h:1,b=http://h:1 has duplicate url http://h:1",
            ),
        ] {
            assert_eq!(check(cluster, name, advertised).unwrap_err(), complaint);
        }
    }

    #[test]
    fn every_name_needs_a_url() {
        let no_scheme = "URL scheme must be http, https, unix, or unixs: ";
        assert_eq!(InitialCluster::parse("a").unwrap_err(), no_scheme);
        assert_eq!(InitialCluster::parse("a=").unwrap_err(), no_scheme);
        assert!(InitialCluster::parse("a=h:1").is_err());
    }

    #[test]
    fn commas_may_stand_anywhere_between_members() {
        let text = "a=http://h:1,b=http://g:1";
        for written in [text, "a=http://h:1,b=http://g:1,", ",,a=http://h:1,,b= http://g:1"] {
            assert_eq!(InitialCluster::parse(written).unwrap().to_string(), text, "{written}");
        }
        assert_eq!(InitialCluster::parse("").unwrap(), InitialCluster::default());
        for lacking in [" a=http://h:1", ""] {
            let said = check(lacking, "a", "http://h:1").unwrap_err();
            assert!(said.starts_with("couldn't find local name \"a\" in the initial cluster"), "{said}");
        }
    }
}
