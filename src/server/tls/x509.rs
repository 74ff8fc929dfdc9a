//! What certificates and lists of revoked ones say, as far as etcd's rules ask: names, serial numbers, times.
//!
//! A certificate is looked at here behind its verification. One that cannot be read to its end is refused, whatever
//! else has taken it: a name that this module does not see would not be compared, and a serial number not looked for.
#![forbid(unsafe_code)]

use std::net::IpAddr;

/// What a certificate says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The serial number without leading zeros.
    pub serial: Vec<u8>,
    /// The last common name of the subject; empty if there is none.
    pub common_name: String,
    /// Seconds of Unix time from which on the certificate is valid.
    pub not_before: i64,
    /// Seconds of Unix time until which the certificate is valid.
    pub not_after: i64,
    /// Names of hosts that it is for.
    pub dns_names: Vec<String>,
    /// Addresses of hosts that it is for.
    pub addresses: Vec<IpAddr>,
    /// What it may be used for; empty if it says nothing about that.
    pub(super) usages: Vec<Vec<u8>>,
    /// It is of an older version than the third, which has extensions.
    pub(super) is_old: bool,
    /// It says whether it is one of an authority, and what.
    pub(super) authority: Option<bool>,
    /// It says what its key is for, which is not to sign certificates.
    pub(super) signs_nothing: bool,
    /// It says something that has to be understood, and is not.
    pub(super) is_strange: bool,
}

/// What a certificate is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// A server shows it.
    Server,
    /// A client shows it.
    Client,
}

const OID_COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const OID_SUBJECT_NAMES: &[u8] = &[0x55, 0x1d, 0x11];
const OID_AUTHORITY: &[u8] = &[0x55, 0x1d, 0x13];
const OID_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const OID_USAGES: &[u8] = &[0x55, 0x1d, 0x25];
const OID_ANY_USAGE: &[u8] = &[0x55, 0x1d, 0x25, 0x00];
const OID_SERVER: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
const OID_CLIENT: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];

/// How the ids of those extensions end that are understood here, or may be left aside.
const EXTENSIONS: [u8; 12] = [14, 15, 17, 19, 30, 31, 32, 33, 35, 36, 37, 54];
/// The version that has extensions, as it is written.
const VERSION_3: &[u8] = &[2];
/// The bit of a key that signs certificates.
const SIGNS_CERTIFICATES: u8 = 0x04;

mod tag {
    pub const BOOLEAN: u8 = 0x01;
    pub const INTEGER: u8 = 0x02;
    pub const BITS: u8 = 0x03;
    pub const OCTETS: u8 = 0x04;
    pub const OID: u8 = 0x06;
    pub const UTC_TIME: u8 = 0x17;
    pub const TIME: u8 = 0x18;
    pub const BMP_STRING: u8 = 0x1e;
    pub const SEQUENCE: u8 = 0x30;
    pub const SET: u8 = 0x31;
    pub const DNS_NAME: u8 = 0x82;
    pub const ADDRESS: u8 = 0x87;
    pub const VERSION: u8 = 0xa0;
    pub const LIST_EXTENSIONS: u8 = 0xa0;
    pub const EXTENSIONS: u8 = 0xa3;
}

/// Elements one behind the other.
#[derive(Clone, Copy)]
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Whether all elements were taken.
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next element: its tag and what it holds. `None` where nothing can be read, as at the end: who reads until
    /// the end asks [`Der::is_empty`] first, because what stands behind garbage must not go for absent.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let length = if first < 0x80 {
            usize::from(first)
        } else {
            let bytes = usize::from(first & 0x7f);
            if bytes == 0 || bytes > 4 {
                return None;
            }
            let (length, behind) = rest.split_at_checked(bytes)?;
            rest = behind;
            length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte))
        };
        let (content, behind) = rest.split_at_checked(length)?;
        self.0 = behind;
        Some((tag, content))
    }

    /// The next element, which has this tag.
    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }

    /// The next element with its head, which has this tag.
    fn whole(&mut self, tag: u8) -> Option<&'a [u8]> {
        let before = self.0;
        self.expect(tag)?;
        Some(&before[..before.len() - self.0.len()])
    }

    /// The next element if it has one of these tags.
    fn optional(&mut self, tags: &[u8]) -> Option<&'a [u8]> {
        let mut ahead = *self;
        let (_, content) = ahead.next().filter(|(found, _)| tags.contains(found))?;
        *self = ahead;
        Some(content)
    }
}

impl Facts {
    /// Reads a certificate; `None` if it is none.
    pub fn read(certificate: &[u8]) -> Option<Facts> {
        let mut signed = Der(Der(certificate).expect(tag::SEQUENCE)?);
        let mut body = Der(signed.expect(tag::SEQUENCE)?);
        let is_old = match body.optional(&[tag::VERSION]) {
            Some(version) => Der(version).expect(tag::INTEGER)? != VERSION_3,
            None => true,
        };
        let serial = serial(body.expect(tag::INTEGER)?).to_vec();
        let mut facts = Facts { serial, is_old, ..Facts::default() };
        body.expect(tag::SEQUENCE)?; // how it is signed
        body.expect(tag::SEQUENCE)?; // by whom
        let mut validity = Der(body.expect(tag::SEQUENCE)?);
        facts.not_before = time(validity.next()?)?;
        facts.not_after = time(validity.next()?)?;
        facts.common_name = common_name(Der(body.expect(tag::SEQUENCE)?))?;
        body.expect(tag::SEQUENCE)?; // its key
        while !body.is_empty() {
            let (found, content) = body.next()?;
            if found == tag::EXTENSIONS {
                facts.read_extensions(Der(Der(content).expect(tag::SEQUENCE)?))?;
            }
        }
        Some(facts)
    }

    fn read_extensions(&mut self, mut extensions: Der<'_>) -> Option<()> {
        while !extensions.is_empty() {
            let mut extension = Der(extensions.expect(tag::SEQUENCE)?);
            let id = extension.expect(tag::OID)?;
            let is_critical = extension.optional(&[tag::BOOLEAN]).is_some_and(is_true);
            let value = extension.expect(tag::OCTETS)?;
            let is_usual = EXTENSIONS.iter().any(|last| id == [0x55, 0x1d, *last]);
            self.is_strange |= is_critical && !is_usual;
            match id {
                OID_AUTHORITY => {
                    let mut constraints = Der(Der(value).expect(tag::SEQUENCE)?);
                    self.authority = Some(constraints.optional(&[tag::BOOLEAN]).is_some_and(is_true));
                }
                OID_KEY_USAGE => {
                    let (_, bits) = Der(value).expect(tag::BITS)?.split_first()?;
                    let is_said = bits.iter().any(|byte| *byte != 0);
                    self.signs_nothing = is_said && bits[0] & SIGNS_CERTIFICATES == 0;
                }
                OID_SUBJECT_NAMES => self.read_names(Der(Der(value).expect(tag::SEQUENCE)?))?,
                OID_USAGES => {
                    let mut usages = Der(Der(value).expect(tag::SEQUENCE)?);
                    while !usages.is_empty() {
                        self.usages.push(usages.expect(tag::OID)?.to_vec());
                    }
                }
                _ => {}
            }
        }
        Some(())
    }

    fn read_names(&mut self, mut names: Der<'_>) -> Option<()> {
        while !names.is_empty() {
            let (found, content) = names.next()?;
            match found {
                tag::DNS_NAME => {
                    let name = std::str::from_utf8(content).ok().filter(|name| name.is_ascii())?;
                    self.dns_names.push(name.to_owned());
                }
                tag::ADDRESS => self.addresses.push(address(content)?),
                _ => {}
            }
        }
        Some(())
    }

    /// Whether the certificate is for this host, which is given by its name or by its address.
    pub fn is_for_host(&self, host: &str) -> bool {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        match bare.parse::<IpAddr>() {
            Ok(address) => self.addresses.contains(&address.to_canonical()),
            Err(_) => self.dns_names.iter().any(|pattern| matches(pattern, host)),
        }
    }

    /// Whether the certificate may have signed others.
    pub(super) fn is_signer(&self) -> bool {
        self.authority.unwrap_or(self.is_old) && !self.signs_nothing
    }

    /// Whether it is one that rustls takes of nobody as its own.
    pub(super) fn is_odd(&self) -> bool {
        self.is_old || self.authority == Some(true)
    }

    /// Whether the certificate may be used so.
    pub fn allows(&self, usage: Usage) -> bool {
        let wanted = if usage == Usage::Server { OID_SERVER } else { OID_CLIENT };
        self.usages.is_empty() || self.usages.iter().any(|id| *id == wanted || *id == OID_ANY_USAGE)
    }
}

fn is_true(boolean: &[u8]) -> bool {
    boolean.iter().any(|byte| *byte != 0)
}

/// A certificate as far as signatures are concerned.
pub(super) struct Signed<'a> {
    /// What is signed.
    pub body: &'a [u8],
    /// What the algorithm of the signature is called.
    pub algorithm: &'a [u8],
    /// The signature.
    pub signature: &'a [u8],
    /// The parts of the name of who has signed.
    pub issuer: &'a [u8],
    /// The certificate's key.
    pub key: &'a [u8],
}

impl<'a> Signed<'a> {
    /// Reads a certificate; `None` if it is none.
    pub fn read(certificate: &'a [u8]) -> Option<Self> {
        let mut signed = Der(Der(certificate).expect(tag::SEQUENCE)?);
        let body = signed.whole(tag::SEQUENCE)?;
        let algorithm = signed.expect(tag::SEQUENCE)?;
        let signature = bits(signed.expect(tag::BITS)?)?;
        let mut parts = Der(Der(body).expect(tag::SEQUENCE)?);
        parts.optional(&[tag::VERSION]);
        parts.expect(tag::INTEGER)?;
        if parts.expect(tag::SEQUENCE)? != algorithm {
            return None;
        }
        let issuer = parts.expect(tag::SEQUENCE)?;
        parts.expect(tag::SEQUENCE)?; // when it is valid
        parts.expect(tag::SEQUENCE)?; // whose it is
        let key = parts.whole(tag::SEQUENCE)?;
        Some(Self { body, algorithm, signature, issuer, key })
    }

    /// What the key's algorithm is called, and the key alone.
    pub fn key_parts(&self) -> Option<(&'a [u8], &'a [u8])> {
        key_parts(Der(self.key).expect(tag::SEQUENCE)?)
    }
}

/// What the algorithm of a key is called, and the key alone.
pub(super) fn key_parts(key: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut parts = Der(key);
    Some((parts.expect(tag::SEQUENCE)?, bits(parts.expect(tag::BITS)?)?))
}

/// Whole bytes of bits.
fn bits(content: &[u8]) -> Option<&[u8]> {
    content.split_first().filter(|(unused, _)| **unused == 0).map(|(_, bits)| bits)
}

/// A name of a host against one that may begin with a star, which stands for one label.
fn matches(pattern: &str, host: &str) -> bool {
    let (pattern, host) = (pattern.to_ascii_lowercase(), host.to_ascii_lowercase());
    let host = host.strip_suffix('.').unwrap_or(&host);
    if pattern.is_empty() || host.is_empty() {
        return false;
    }
    match (pattern.strip_prefix("*."), host.split_once('.')) {
        (Some(rest), Some((label, behind))) => !label.is_empty() && rest == behind,
        (Some(_), None) => false,
        (None, _) => pattern == host,
    }
}

fn serial(integer: &[u8]) -> &[u8] {
    let zeros = integer.iter().take_while(|byte| **byte == 0).count();
    &integer[zeros..]
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(bytes));
    }
    <[u8; 16]>::try_from(bytes).ok().map(|bytes| IpAddr::from(bytes).to_canonical())
}

/// The last common name among the parts of a name.
fn common_name(mut parts: Der<'_>) -> Option<String> {
    let mut name = String::new();
    while !parts.is_empty() {
        let mut attributes = Der(parts.expect(tag::SET)?);
        while !attributes.is_empty() {
            let mut attribute = Der(attributes.expect(tag::SEQUENCE)?);
            if attribute.expect(tag::OID)? == OID_COMMON_NAME {
                name = text(attribute.next()?);
            }
        }
    }
    Some(name)
}

fn text((kind, bytes): (u8, &[u8])) -> String {
    if kind != tag::BMP_STRING {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
    String::from_utf16_lossy(&units)
}

/// A time in seconds of Unix time.
fn time((kind, bytes): (u8, &[u8])) -> Option<i64> {
    let digits = std::str::from_utf8(bytes).ok()?.strip_suffix('Z')?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = match kind {
        tag::UTC_TIME => {
            let (year, rest) = digits.split_at_checked(2)?;
            let year: i32 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        tag::TIME => {
            let (year, rest) = digits.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    if rest.len() != 10 {
        return None;
    }
    let part = |at: usize| rest[at..at + 2].parse::<u8>().ok();
    let month = time::Month::try_from(part(0)?).ok()?;
    let date = time::Date::from_calendar_date(year, month, part(2)?).ok()?;
    let clock = time::Time::from_hms(part(4)?, part(6)?, part(8)?).ok()?;
    Some(time::PrimitiveDateTime::new(date, clock).assume_utc().unix_timestamp())
}

/// The serial numbers of certificates that are revoked, in order, in one piece of memory: a long list is let go of at
/// once, wherever its last user is.
#[derive(Clone, Debug, Default)]
pub struct Revoked {
    /// The serial numbers, one behind the other.
    bytes: Box<[u8]>,
    /// Where each of them ends.
    ends: Box<[u32]>,
}

impl Revoked {
    /// Reads a list; `None` if it is none. Who has signed it is not looked at, as in etcd.
    pub fn read(list: &[u8]) -> Option<Revoked> {
        let mut signed = Der(Der(list).expect(tag::SEQUENCE)?);
        let mut body = Der(signed.expect(tag::SEQUENCE)?);
        body.optional(&[tag::INTEGER]);
        body.expect(tag::SEQUENCE)?; // how it is signed
        body.expect(tag::SEQUENCE)?; // by whom
        time(body.next()?)?;
        body.optional(&[tag::UTC_TIME, tag::TIME]);
        let mut serials = Vec::new();
        let mut entries = Der(body.optional(&[tag::SEQUENCE]).unwrap_or_default());
        while !entries.is_empty() {
            serials.push(serial(Der(entries.expect(tag::SEQUENCE)?).expect(tag::INTEGER)?));
        }
        body.optional(&[tag::LIST_EXTENSIONS]);
        if !body.is_empty() {
            return None;
        }
        serials.sort_unstable();
        let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(serials.len()));
        for serial in serials {
            bytes.extend_from_slice(serial);
            ends.push(u32::try_from(bytes.len()).ok()?);
        }
        Some(Revoked { bytes: bytes.into(), ends: ends.into() })
    }

    /// Whether a certificate is revoked.
    pub fn has(&self, facts: &Facts) -> bool {
        let at = |number: usize| {
            let begin = number.checked_sub(1).map_or(0, |before| self.ends[before]);
            &self.bytes[begin as usize..self.ends[number] as usize]
        };
        let (mut low, mut high) = (0, self.ends.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match at(middle).cmp(&facts.serial) {
                std::cmp::Ordering::Equal => return true,
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        false
    }
}
