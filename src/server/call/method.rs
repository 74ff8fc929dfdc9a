//! Every method of the client port, by path and by number.
#![forbid(unsafe_code)]

/// How many messages each side sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One request, one answer.
    Unary,
    /// One request, any number of answers.
    ServerStream,
    /// Any number of both.
    BidiStream,
}

impl Kind {
    /// The value of the metrics' `grpc_type` label.
    pub const fn label(self) -> &'static str {
        match self {
            Kind::Unary => "unary",
            Kind::ServerStream => "server_stream",
            Kind::BidiStream => "bidi_stream",
        }
    }
}

macro_rules! methods {
    ($($package:literal $service:literal { $($variant:ident = $name:literal $kind:ident,)* })*) => {
        /// A method of the client port. As a number it indexes tables of counters.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[expect(missing_docs, reason = "each variant is named like its method")]
        pub enum Method { $($($variant,)*)* }

        impl Method {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Method] = &[$($(Method::$variant,)*)*];

            /// The method of a request path such as `/etcdserverpb.KV/Range`.
            pub fn from_path(path: &str) -> Option<Method> {
                // Compiled to comparisons of length, then bytes; the frequent ones come first in the table.
                match path {
                    $($(concat!("/", $package, ".", $service, "/", $name) => Some(Method::$variant),)*)*
                    _ => None,
                }
            }

            /// The request path.
            pub const fn path(self) -> &'static str {
                match self { $($(Method::$variant => concat!("/", $package, ".", $service, "/", $name),)*)* }
            }

            /// The full name of the service, such as `etcdserverpb.KV`.
            pub const fn service(self) -> &'static str {
                match self { $($(Method::$variant => concat!($package, ".", $service),)*)* }
            }

            /// The name within the service.
            pub const fn name(self) -> &'static str {
                match self { $($(Method::$variant => $name,)*)* }
            }

            /// Unary or streaming.
            pub const fn kind(self) -> Kind {
                match self { $($(Method::$variant => Kind::$kind,)*)* }
            }
        }

        const SERVICES: &[&str] = &[$(concat!($package, ".", $service),)*];
    };
}

methods! {
    "etcdserverpb" "KV" {
        Range = "Range" Unary,
        Put = "Put" Unary,
        Txn = "Txn" Unary,
        DeleteRange = "DeleteRange" Unary,
        Compact = "Compact" Unary,
        RangeStream = "RangeStream" ServerStream,
    }
    "etcdserverpb" "Watch" {
        Watch = "Watch" BidiStream,
    }
    "etcdserverpb" "Lease" {
        LeaseGrant = "LeaseGrant" Unary,
        LeaseRevoke = "LeaseRevoke" Unary,
        LeaseKeepAlive = "LeaseKeepAlive" BidiStream,
        LeaseTimeToLive = "LeaseTimeToLive" Unary,
        LeaseLeases = "LeaseLeases" Unary,
    }
    "etcdserverpb" "Cluster" {
        MemberAdd = "MemberAdd" Unary,
        MemberRemove = "MemberRemove" Unary,
        MemberUpdate = "MemberUpdate" Unary,
        MemberList = "MemberList" Unary,
        MemberPromote = "MemberPromote" Unary,
    }
    "etcdserverpb" "Maintenance" {
        Alarm = "Alarm" Unary,
        Status = "Status" Unary,
        Defragment = "Defragment" Unary,
        Hash = "Hash" Unary,
        HashKv = "HashKV" Unary,
        Snapshot = "Snapshot" ServerStream,
        MoveLeader = "MoveLeader" Unary,
        Downgrade = "Downgrade" Unary,
    }
    "etcdserverpb" "Auth" {
        AuthEnable = "AuthEnable" Unary,
        AuthDisable = "AuthDisable" Unary,
        AuthStatus = "AuthStatus" Unary,
        Authenticate = "Authenticate" Unary,
        UserAdd = "UserAdd" Unary,
        UserGet = "UserGet" Unary,
        UserList = "UserList" Unary,
        UserDelete = "UserDelete" Unary,
        UserChangePassword = "UserChangePassword" Unary,
        UserGrantRole = "UserGrantRole" Unary,
        UserRevokeRole = "UserRevokeRole" Unary,
        RoleAdd = "RoleAdd" Unary,
        RoleGet = "RoleGet" Unary,
        RoleList = "RoleList" Unary,
        RoleDelete = "RoleDelete" Unary,
        RoleGrantPermission = "RoleGrantPermission" Unary,
        RoleRevokePermission = "RoleRevokePermission" Unary,
    }
    "v3lockpb" "Lock" {
        Lock = "Lock" Unary,
        Unlock = "Unlock" Unary,
    }
    "v3electionpb" "Election" {
        Campaign = "Campaign" Unary,
        Proclaim = "Proclaim" Unary,
        Leader = "Leader" Unary,
        Observe = "Observe" ServerStream,
        Resign = "Resign" Unary,
    }
    "grpc.health.v1" "Health" {
        HealthCheck = "Check" Unary,
        HealthWatch = "Watch" ServerStream,
        HealthList = "List" Unary,
    }
}

impl Method {
    /// Whether this is a read that costs little as a rule and waits for no log write.
    pub const fn is_read(self) -> bool {
        matches!(
            self,
            Self::Range
                | Self::LeaseTimeToLive
                | Self::LeaseLeases
                | Self::MemberList
                | Self::Status
                | Self::AuthStatus
                | Self::HealthCheck
                | Self::HealthList
        )
    }
}

/// What grpc-go says about a path that is no method.
pub fn unknown(path: &str) -> String {
    let Some((service, method)) = path.strip_prefix('/').and_then(|rest| rest.rsplit_once('/')) else {
        return format!("malformed method name: {path:?}");
    };
    if SERVICES.contains(&service) {
        format!("unknown method {method} for service {service}")
    } else {
        format!("unknown service {service}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_numbers_agree() {
        for (number, &method) in Method::ALL.iter().enumerate() {
            assert_eq!(method as usize, number);
            assert_eq!(Method::from_path(method.path()), Some(method));
            assert_eq!(method.path(), format!("/{}/{}", method.service(), method.name()));
        }
        assert_eq!(Method::HashKv.path(), "/etcdserverpb.Maintenance/HashKV");
        assert_eq!(Method::Watch.kind(), Kind::BidiStream);
    }

    #[test]
    fn unknown_methods_are_named_as_grpc_go_names_them() {
        assert_eq!(unknown("/a.B/C"), "unknown service a.B");
        assert_eq!(unknown("/etcdserverpb.KV/C"), "unknown method C for service etcdserverpb.KV");
        assert_eq!(unknown("/x"), "malformed method name: \"/x\"");
    }
}
