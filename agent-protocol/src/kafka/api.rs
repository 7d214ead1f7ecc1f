//! What is known of each API: its name, the versions that are read, and from which version on its messages are flexible.

/// A kind of request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Api {
    /// As the protocol guide writes it.
    pub(super) name: &'static str,
    /// The last version that is known here (Kafka 4.1).
    version_max: i16,
    /// The first version with compact lengths and tagged fields (KIP-482).
    flexible_from: i16,
}

/// No version is flexible.
const NEVER: i16 = i16::MAX;
/// Versions that may come later than those known here; their bodies are not read.
const LATER_VERSIONS: i16 = 8;

pub(super) const PRODUCE: i16 = 0;
pub(super) const FETCH: i16 = 1;
pub(super) const LIST_OFFSETS: i16 = 2;
pub(super) const METADATA: i16 = 3;
pub(super) const OFFSET_COMMIT: i16 = 8;
pub(super) const OFFSET_FETCH: i16 = 9;
pub(super) const FIND_COORDINATOR: i16 = 10;
pub(super) const JOIN_GROUP: i16 = 11;
pub(super) const HEARTBEAT: i16 = 12;
pub(super) const LEAVE_GROUP: i16 = 13;
pub(super) const SYNC_GROUP: i16 = 14;
pub(super) const LIST_GROUPS: i16 = 16;
pub(super) const SASL_HANDSHAKE: i16 = 17;
pub(super) const API_VERSIONS: i16 = 18;
pub(super) const CREATE_TOPICS: i16 = 19;
pub(super) const DELETE_TOPICS: i16 = 20;
pub(super) const INIT_PRODUCER_ID: i16 = 22;
pub(super) const ADD_OFFSETS_TO_TXN: i16 = 25;
pub(super) const END_TXN: i16 = 26;
pub(super) const SASL_AUTHENTICATE: i16 = 36;
pub(super) const CONSUMER_GROUP_HEARTBEAT: i16 = 68;
pub(super) const SHARE_FETCH: i16 = 78;

/// By number.
const APIS: [(&str, i16, i16); 93] = [
    ("Produce", 13, 9),
    ("Fetch", 18, 12),
    ("ListOffsets", 10, 6),
    ("Metadata", 13, 9),
    ("LeaderAndIsr", 7, 4),
    ("StopReplica", 4, 2),
    ("UpdateMetadata", 8, 6),
    ("ControlledShutdown", 3, 3),
    ("OffsetCommit", 9, 8),
    ("OffsetFetch", 9, 6),
    ("FindCoordinator", 6, 3),
    ("JoinGroup", 9, 6),
    ("Heartbeat", 4, 4),
    ("LeaveGroup", 5, 4),
    ("SyncGroup", 5, 4),
    ("DescribeGroups", 6, 5),
    ("ListGroups", 5, 3),
    ("SaslHandshake", 1, NEVER),
    ("ApiVersions", 4, 3),
    ("CreateTopics", 7, 5),
    ("DeleteTopics", 6, 4),
    ("DeleteRecords", 2, 2),
    ("InitProducerId", 5, 2),
    ("OffsetForLeaderEpoch", 4, 4),
    ("AddPartitionsToTxn", 5, 3),
    ("AddOffsetsToTxn", 4, 3),
    ("EndTxn", 5, 3),
    ("WriteTxnMarkers", 1, 1),
    ("TxnOffsetCommit", 5, 3),
    ("DescribeAcls", 3, 2),
    ("CreateAcls", 3, 2),
    ("DeleteAcls", 3, 2),
    ("DescribeConfigs", 4, 4),
    ("AlterConfigs", 2, 2),
    ("AlterReplicaLogDirs", 2, 2),
    ("DescribeLogDirs", 4, 2),
    ("SaslAuthenticate", 2, 2),
    ("CreatePartitions", 3, 2),
    ("CreateDelegationToken", 3, 2),
    ("RenewDelegationToken", 2, 2),
    ("ExpireDelegationToken", 2, 2),
    ("DescribeDelegationToken", 3, 2),
    ("DeleteGroups", 2, 2),
    ("ElectLeaders", 2, 2),
    ("IncrementalAlterConfigs", 1, 1),
    ("AlterPartitionReassignments", 1, 0),
    ("ListPartitionReassignments", 0, 0),
    ("OffsetDelete", 0, NEVER),
    ("DescribeClientQuotas", 1, 1),
    ("AlterClientQuotas", 1, 1),
    ("DescribeUserScramCredentials", 0, 0),
    ("AlterUserScramCredentials", 0, 0),
    ("Vote", 2, 0),
    ("BeginQuorumEpoch", 1, 1),
    ("EndQuorumEpoch", 1, 1),
    ("DescribeQuorum", 2, 0),
    ("AlterPartition", 3, 0),
    ("UpdateFeatures", 2, 0),
    ("Envelope", 0, 0),
    ("FetchSnapshot", 1, 0),
    ("DescribeCluster", 2, 0),
    ("DescribeProducers", 0, 0),
    ("BrokerRegistration", 4, 0),
    ("BrokerHeartbeat", 1, 0),
    ("UnregisterBroker", 0, 0),
    ("DescribeTransactions", 0, 0),
    ("ListTransactions", 2, 0),
    ("AllocateProducerIds", 0, 0),
    ("ConsumerGroupHeartbeat", 1, 0),
    ("ConsumerGroupDescribe", 1, 0),
    ("ControllerRegistration", 0, 0),
    ("GetTelemetrySubscriptions", 0, 0),
    ("PushTelemetry", 0, 0),
    ("AssignReplicasToDirs", 0, 0),
    ("ListConfigResources", 1, 0),
    ("DescribeTopicPartitions", 0, 0),
    ("ShareGroupHeartbeat", 1, 0),
    ("ShareGroupDescribe", 1, 0),
    ("ShareFetch", 1, 0),
    ("ShareAcknowledge", 1, 0),
    ("AddRaftVoter", 0, 0),
    ("RemoveRaftVoter", 0, 0),
    ("UpdateRaftVoter", 0, 0),
    ("InitializeShareGroupState", 0, 0),
    ("ReadShareGroupState", 0, 0),
    ("WriteShareGroupState", 0, 0),
    ("DeleteShareGroupState", 0, 0),
    ("ReadShareGroupStateSummary", 0, 0),
    ("StreamsGroupHeartbeat", 0, 0),
    ("StreamsGroupDescribe", 0, 0),
    ("DescribeShareGroupOffsets", 0, 0),
    ("AlterShareGroupOffsets", 0, 0),
    ("DeleteShareGroupOffsets", 0, 0),
];

impl Api {
    /// The API of this number, if a request for this version of it is plausible.
    pub(super) fn of(key: i16, version: i16) -> Option<Self> {
        let (name, version_max, flexible_from) = *APIS.get(usize::try_from(key).ok()?)?;
        let plausible = (0..=version_max + LATER_VERSIONS).contains(&version);
        plausible.then_some(Self { name, version_max, flexible_from })
    }

    /// Whether the layout of this version's bodies is known here.
    pub(super) const fn is_known(&self, version: i16) -> bool {
        version <= self.version_max
    }

    /// Whether lengths are compact and fields may be tagged.
    pub(super) const fn is_flexible(&self, version: i16) -> bool {
        version >= self.flexible_from
    }
}
