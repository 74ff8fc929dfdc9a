//! A question for SRV records, and what an answer says, as bytes.
#![forbid(unsafe_code)]

use domain::base::iana::{Class, OptRcode, Rtype};
use domain::base::{Message, MessageBuilder, Name, ToName};
use domain::rdata::Srv;

/// The longest answer over UDP that is asked for: what passes every network in one piece.
pub const DATAGRAM_BYTES_MAX: u16 = 1232;
/// Records of an answer that are read, at most.
const RECORDS_MAX: usize = 128;

/// What an SRV record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Smaller ones come first.
    pub priority: u16,
    /// The share of those of the same priority.
    pub weight: u16,
    /// The host, with the dot at its end.
    pub target: String,
    /// The port.
    pub port: u16,
}

/// What an answer comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// No answer to the question.
    Foreign,
    /// An answer that was cut.
    Cut,
    /// The records; at least one.
    Records(Vec<Record>),
    /// There are none.
    Nothing,
    /// The server does not answer properly; another one may.
    Useless(&'static str),
}

/// A question: its number, and the name that is asked for.
#[derive(Clone, Debug)]
pub struct Question {
    id: u16,
    name: Name<Vec<u8>>,
    asks_authentic: bool,
}

impl Question {
    /// A question for a whole name; none where that can't be one.
    pub fn new(id: u16, name: &str, asks_authentic: bool) -> Option<Self> {
        Some(Self { id, name: name.parse().ok()?, asks_authentic })
    }

    /// The question as bytes.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        let mut builder = MessageBuilder::new_vec();
        let header = builder.header_mut();
        header.set_id(self.id);
        header.set_rd(true);
        header.set_ad(self.asks_authentic);
        let mut question = builder.question();
        question.push((&self.name, Rtype::SRV, Class::IN)).ok()?;
        let mut additional = question.additional();
        let said = additional.opt(|opt| {
            opt.set_udp_payload_size(DATAGRAM_BYTES_MAX);
            Ok(())
        });
        said.ok()?;
        Some(additional.finish())
    }

    /// Reads what has come. Over a connection nothing can be longer than its answer, so none is cut.
    pub fn read(&self, bytes: &[u8], is_datagram: bool) -> Reply {
        let Ok(message) = Message::from_octets(bytes) else { return Reply::Foreign };
        let header = message.header();
        let fits = message.sole_question().is_ok_and(|asked| {
            asked.qtype() == Rtype::SRV && asked.qclass() == Class::IN && asked.qname().name_eq(&self.name)
        });
        if !header.qr() || header.id() != self.id || !fits {
            return Reply::Foreign;
        }
        if is_datagram && header.tc() {
            return Reply::Cut;
        }
        let counts = message.header_counts();
        match message.opt_rcode() {
            OptRcode::NXDOMAIN => return Reply::Nothing,
            OptRcode::NOERROR => {}
            _ => return Reply::Useless("server misbehaving"),
        }
        // Who neither knows the name nor asks others for it is no server to ask.
        let is_referral = !header.aa() && !header.ra() && counts.ancount() == 0 && counts.arcount() == 0;
        if is_referral {
            return Reply::Useless("lame referral");
        }
        match records(&message) {
            None => Reply::Useless("cannot unmarshal DNS message"),
            Some(records) if records.is_empty() => Reply::Nothing,
            Some(records) => Reply::Records(records),
        }
    }
}

/// The SRV records of an answer, those of the highest priority first, and equal ones as they came; none where they
/// can't be read.
fn records(message: &Message<&[u8]>) -> Option<Vec<Record>> {
    let mut found = Vec::new();
    for record in message.answer().ok()?.limit_to_in::<Srv<_>>().take(RECORDS_MAX) {
        let record = record.ok()?;
        let srv = record.data();
        let target = srv.target().to_string();
        found.push(Record {
            priority: srv.priority(),
            weight: srv.weight(),
            target: format!("{}.", target.trim_end_matches('.')),
            port: srv.port(),
        });
    }
    found.sort_by_key(|record| (record.priority, record.weight));
    Some(found)
}

/// Whether a text is the name of a host or of a service, as Go sees it: letters, digits, hyphens and underscores
/// between dots, and not digits alone.
pub fn is_name(text: &str) -> bool {
    if text == "." {
        return true;
    }
    let whole = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let is_number = whole.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    whole.len() <= 253 && !is_number && whole.split('.').all(is_label)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::stdx::prng::Prng;
    use domain::base::iana::Rcode;
    use domain::base::{Record as Put, Ttl};
    use domain::rdata::{A, Cname};

    const NAME: &str = "_etcd-server._tcp.example.com.";

    /// The answer to a question, whatever its number, with one record; `cut` where it is too long for a datagram.
    pub(in super::super) fn answer_to(question: &[u8], target: &str, cut: bool) -> Vec<u8> {
        let mut bytes = answer(NAME, Rcode::NOERROR, &[(target, 2380, 0)]);
        bytes[..2].copy_from_slice(&question[..2]);
        bytes[2] |= if cut { 2 } else { 0 };
        bytes
    }

    fn question() -> Question {
        Question::new(7, NAME, false).unwrap()
    }

    /// An answer of a server, with so many SRV records.
    fn answer(name: &str, rcode: Rcode, targets: &[(&str, u16, u16)]) -> Vec<u8> {
        let name: Name<Vec<u8>> = name.parse().unwrap();
        let mut builder = MessageBuilder::new_vec();
        let header = builder.header_mut();
        header.set_id(7);
        header.set_qr(true);
        header.set_ra(true);
        header.set_rcode(rcode);
        let mut question = builder.question();
        question.push((&name, Rtype::SRV, Class::IN)).unwrap();
        let mut answer = question.answer();
        let ttl = Ttl::from_secs(1);
        answer.push(Put::new(&name, Class::IN, ttl, Cname::new(&name))).unwrap();
        answer.push(Put::new(&name, Class::IN, ttl, A::from_octets(10, 0, 0, 1))).unwrap();
        for (target, port, priority) in targets {
            let target: Name<Vec<u8>> = target.parse().unwrap();
            answer.push(Put::new(&name, Class::IN, ttl, Srv::new(*priority, 0, *port, target))).unwrap();
        }
        answer.finish()
    }

    #[test]
    fn a_question_asks_for_one_name() {
        let bytes = question().bytes().unwrap();
        let message = Message::from_octets(&bytes[..]).unwrap();
        assert!(message.header().rd() && !message.header().qr() && message.header().id() == 7);
        assert_eq!(message.sole_question().unwrap().qname().to_string(), NAME.trim_end_matches('.'));
        assert_eq!(message.opt().unwrap().udp_payload_size(), DATAGRAM_BYTES_MAX);
        assert!(Question::new(1, &"x".repeat(64), false).is_none());
    }

    #[test]
    fn an_answer_has_its_records_in_order() {
        let targets = [("b.example.com.", 2380, 2), ("a.example.com.", 2381, 1)];
        let bytes = answer(NAME, Rcode::NOERROR, &targets);
        let Reply::Records(records) = question().read(&bytes, true) else { panic!("there are records") };
        let found: Vec<_> = records.iter().map(|record| (record.target.as_str(), record.port)).collect();
        assert_eq!(found, [("a.example.com.", 2381), ("b.example.com.", 2380)]);
        // Letters may come back in another case.
        let loud = answer(&NAME.to_uppercase(), Rcode::NOERROR, &targets);
        assert!(matches!(question().read(&loud, true), Reply::Records(_)));
    }

    #[test]
    fn answers_without_records_say_why() {
        let read = |bytes: &[u8]| question().read(bytes, true);
        let some = [("a.", 1, 1)];
        assert_eq!(read(&answer(NAME, Rcode::NXDOMAIN, &[])), Reply::Nothing);
        assert_eq!(read(&answer(NAME, Rcode::NOERROR, &[])), Reply::Nothing);
        for rcode in [Rcode::SERVFAIL, Rcode::REFUSED] {
            assert_eq!(read(&answer(NAME, rcode, &some)), Reply::Useless("server misbehaving"));
        }
        assert_eq!(read(&answer("_x._tcp.example.com.", Rcode::NOERROR, &some)), Reply::Foreign);
        assert_eq!(read(&question().bytes().unwrap()), Reply::Foreign, "a question is no answer");
        let mut other = answer(NAME, Rcode::NOERROR, &some);
        other[1] ^= 1;
        assert_eq!(read(&other), Reply::Foreign);
        let mut cut = answer(NAME, Rcode::NOERROR, &some);
        cut[2] |= 2;
        assert_eq!(read(&cut), Reply::Cut);
        assert!(matches!(question().read(&cut, false), Reply::Records(_)));
        let mut referral = answer(NAME, Rcode::NOERROR, &[]);
        referral.truncate(12 + NAME.len() + 1 + 4);
        (referral[3], referral[7]) = (0, 0);
        assert_eq!(read(&referral), Reply::Useless("lame referral"));
    }

    #[test]
    fn bytes_of_anybody_are_read_without_harm() {
        let whole = answer(NAME, Rcode::NOERROR, &[("a.example.com.", 1, 1), ("b.example.com.", 2, 2)]);
        let mut prng = Prng::new(1);
        for _ in 0..5000 {
            let mut bytes = whole.clone();
            bytes.truncate(prng.below(whole.len() as u64 + 1) as usize);
            for _ in 0..prng.below(4) {
                if !bytes.is_empty() {
                    let at = prng.below(bytes.len() as u64) as usize;
                    bytes[at] = prng.next_u64() as u8;
                }
            }
            if let Reply::Records(records) = question().read(&bytes, prng.chance(1, 2)) {
                assert!(!records.is_empty() && records.len() <= RECORDS_MAX);
            }
        }
        let many = vec![("a.", 1, 1); RECORDS_MAX + 9];
        let Reply::Records(records) = question().read(&answer(NAME, Rcode::NOERROR, &many), false) else {
            panic!("there are records")
        };
        assert_eq!(records.len(), RECORDS_MAX);
    }

    #[test]
    fn names_are_those_of_go() {
        for name in ["a", "a.", ".", "_etcd-server._tcp.example.com", "a-b.c1", "1a"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "..", "a..b", "-a", "a-.b", "1.2.3.4", "a b", "a\\b", "ä", &"x".repeat(64)] {
            assert!(!is_name(name), "{name}");
        }
        assert!(!is_name(&["x".repeat(63).as_str(); 5].join(".")));
    }
}
