// What a move puts into a cluster before anything moves, and takes out again: our roles, the blocks in
// pg_hba.conf and pg_ident.conf, titles, publications; on new the databases themselves.
#pragma once

#include "movers/postgres/cluster.h"

namespace midstream::postgres {

// Kind `source`, on old.
Result<Json> apply_source(const Work& work);
Result<Json> undo_source(const Work& work);
// Kind `target`, on new.
Result<Json> apply_target(const Work& work);
Result<Json> undo_target(const Work& work);
// Kind `finish`, on new; and old's half of it.
Result<Json> apply_finish(const Work& work);
Result<> finish_old(const Work& work);

// Our own roles in the cluster that `work` speaks to, with the passwords of this host's record; made, or made so.
Result<> make_own_roles(const Work& work);
// Where PUBLIC may not connect, our roles without superuser's rights need it of their own.
Result<> let_in(const Work& work, const std::string& database);
// Writes our blocks into the access files, has the server read them, and waits until it has. `database` ("":
// all) is open but for who is in the fence role (soft), refused to everybody but us, or to everybody but us and the gate's
// host; which is which is kept in the record.
enum class Access { soft, refused, gated };
Result<> set_access(const Work& work, const std::string& database, Access access);
// It is refused to everybody but us and the gate's host.
Result<bool> is_gated(const Work& work, const std::string& database);
// Refused, naming file and line, where the server cannot read its access files: no reload would have an effect.
Result<> access_is_readable(const Work& work);
// Peer verb: takes the other side's replication password, gives ours.
// The same where both sides are one cluster: this side's passwords are the other's too.
Result<Json> shared_credentials(const Work& work);
Result<Json> exchange_credentials(const Work& work, const std::string& password);
// Peer verb, on old: what a seed keeps there: its slot, and those of the streams.
Result<> forget_seed(const Work& work);
// Peer verb: streams that touch this side as part of the other side's undo.
Result<> forget_streams(const Work& work);

}  // namespace midstream::postgres
