//! The generated types of `proto/etcd`, one module per protobuf package.
#![forbid(unsafe_code)]
#![allow(missing_docs, clippy::all, clippy::pedantic)]

macro_rules! packages {
    ($($module:ident = $package:literal),* $(,)?) => {
        $(pub mod $module { include!(concat!(env!("OUT_DIR"), "/", $package, ".rs")); })*
    };
}

packages! {
    authpb = "authpb",
    etcdserverpb = "etcdserverpb",
    health = "grpc.health.v1",
    leasepb = "leasepb",
    membershippb = "membershippb",
    mvccpb = "mvccpb",
    v3electionpb = "v3electionpb",
    v3lockpb = "v3lockpb",
}

/// Which fields each message has, for code that reads messages field by field.
pub mod fields {
    /// A message.
    pub struct Message {
        /// Its package and name, as in `etcdserverpb.TxnRequest`.
        pub name: &'static str,
        /// Its fields.
        pub fields: &'static [Field],
    }

    /// A field of a message.
    pub struct Field {
        /// Its number.
        pub number: u32,
        /// Bit `n` is set if the field may come with wire type `n`.
        pub wire_types: u8,
        /// The place in [`MESSAGES`] of the message that the field holds, if it holds one.
        pub message: Option<usize>,
    }

    include!(concat!(env!("OUT_DIR"), "/fields.rs"));

    /// A message that has no fields.
    static EMPTY: Message = Message { name: "", fields: &[] };

    /// The message of that package and name; one without fields if there is none.
    pub fn message_of(package: &str, name: &str) -> &'static Message {
        let is_it = |message: &&Message| {
            message.name.strip_prefix(package).and_then(|rest| rest.strip_prefix('.')) == Some(name)
        };
        MESSAGES.iter().find(is_it).unwrap_or(&EMPTY)
    }

    impl Message {
        /// The field of that number.
        pub fn field(&self, number: u32) -> Option<&'static Field> {
            self.fields.iter().find(|field| field.number == number)
        }
    }

    impl Field {
        /// Whether the field may come with this wire type.
        pub fn takes(&self, wire_type: u8) -> bool {
            self.wire_types >> wire_type & 1 == 1
        }

        /// The message that the field holds.
        pub fn message(&self) -> Option<&'static Message> {
            self.message.map(|at| &MESSAGES[at])
        }
    }
}
