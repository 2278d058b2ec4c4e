// One hand-over of one database from the side that owns it (the giver) to the other (the taker). Both
// directions are the same. Each function runs on the host of its side; the order is kept by run_switch()
// (switch.h).
#pragma once

#include <mutex>
#include <string>

#include "movers/postgres/cluster.h"

namespace midstream::postgres {

// The materialized views of this side that are populated, by name.
Result<Json> filled_views(const Work& work, const std::string& database);

// Everything on the taker that can be done before anybody waits: stream checked, statistics and materialized
// views made (args: "views", the giver's filled ones), what is hot on old read (args: "hot", as the giver's hot_relations() says; missing: nothing), the slot for the way back, the
// fence proven. {"proof", "fingerprint", "warmed_bytes"}.
Result<Json> prepare_take(const Work& work, const std::string& database, const Json& args);

// And on the giver: nothing in the way, the subscription for the way back. Retry names who is in the way.
// args: "fingerprint" (the taker's). {"lag_bytes"}.
Result<Json> prepare_give(const Work& work, const std::string& database, const Json& args);

// closing, fence, proof, barrier, yielded with the hand-over's row. Until `yielded` every failure opens the
// database again and is a retry (or refused where the fence did not hold). args: "deadline_ms"; "gate_gone": nobody is to
// be held or spared. With a gate, it must say just before `yielded` that it holds them for good.
// {"turn", "fence_ms", "barrier_ms", "sessions_cut", "proof"}.
Result<Json> give(const Work& work, const std::string& database, const Json& args);

// Waits for the hand-over's row, ends the stream, sets sequences, and becomes owner with the fence lifted in
// one commit. Idempotent: an owner answers at once. args: "turn" (0: whatever has arrived), "deadline_ms".
// {"took_ms"}.
Result<Json> take(const Work& work, const std::string& database, const Json& args);

// On the taker, with a gate: what prepare_take let in goes out again, where nothing came of it; and everybody may come, once it
// owns. Idempotent.
Result<Json> refuse_gate(const Work& work, const std::string& database);
Result<Json> admit_all(const Work& work, const std::string& database);

// On the giver, after take: the stream the other way runs, the old slot is gone, the fence is hard.
// Idempotent. args: "began" (of the taker's title). {"proof"}.
Result<Json> after_give(const Work& work, const std::string& database, const Json& args);

// Retry, naming who would make the hold long: byte lag lies while a big transaction is open.
Result<> nobody_in_the_way(const Work& work, Session& session, const std::string& database);
// From here on the gate forwards nothing before it knows from a title where to. Retry where it does not hold everybody.
Result<> gate_keeps(const Work& work, const std::string& database, bool gone);

// The lease of a database that is being closed, on disk: when the agent shall open it again by itself.
Result<> write_lease(const Work& work, const std::string& database);
Result<> clear_lease(const Work& work, const std::string& database);
// Nothing written: false. A lease of an earlier boot has expired.
Result<bool> lease_expired(const Context& context, const std::string& move, int number);

}  // namespace midstream::postgres
