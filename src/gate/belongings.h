// What belongs to a session at its server beyond the wire: asked of the server itself at a safe point, and made again on
// another. Pure: texts and messages, no I/O.
//
// Not to be had from any server, and so not carried: how often a session took one advisory lock (it is taken once again),
// currval() and lastval(), setseed(), what procedural languages keep between calls, LOAD.
#pragma once

#include <expected>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gate/exchange.h"
#include "gate/statements.h"
#include "gate/temporary.h"

namespace midstream::gate {

struct Belongings {
  std::vector<std::pair<std::string, std::string>> settings;             // set by the session, sorted by name
  std::string session_user;                                              // "" where it is that of the login
  std::string role;                                                      // of SET ROLE; "none"
  std::vector<std::string> sql_statements;                               // PREPARE ... AS ..., as it was written
  std::vector<std::pair<std::string, std::string>> protocol_statements;  // name and body of Parse; "" is the unnamed one
  std::vector<std::string> channels;                                     // LISTEN
  Temporary temporary;                                                   // read in rounds of its own (temporary.h)
  bool operator==(const Belongings&) const = default;
};

struct AdvisoryLock {
  std::string objsubid, classid, objid, mode;  // as in pg_locks
};

struct Known {
  Belongings belongings;
  std::vector<AdvisoryLock> locks;  // held by the session
  std::string pinned;               // why it cannot be made again elsewhere; "" if it can
  // There is more to be read before it is known what `belongings.temporary` is.
  bool temporary_tables = false;
  std::vector<std::pair<std::string, bool>> cursors;  // WITH HOLD: name, BINARY
};

// The names of custom settings that functions, policies, views and defaults of a database set or read: asked once for all of its
// sessions, by the gate's own role.
inline constexpr std::string_view kSettingsOfDatabase = R"(
SELECT DISTINCT found[1] FROM (
  SELECT prosrc AS text FROM pg_catalog.pg_proc WHERE pronamespace <> 'pg_catalog'::pg_catalog.regnamespace
  UNION ALL SELECT pg_catalog.unnest(proconfig) FROM pg_catalog.pg_proc
  UNION ALL SELECT pg_catalog.pg_get_expr(polqual, polrelid) || ' ' FROM pg_catalog.pg_policy
  UNION ALL SELECT pg_catalog.pg_get_expr(polwithcheck, polrelid) FROM pg_catalog.pg_policy
  UNION ALL SELECT definition FROM pg_catalog.pg_views WHERE schemaname <> 'pg_catalog'
  UNION ALL SELECT pg_catalog.pg_get_expr(adbin, adrelid) FROM pg_catalog.pg_attrdef, pg_catalog.pg_class AS c
    WHERE c.oid = adrelid AND c.relpersistence <> 't') AS source,
  LATERAL pg_catalog.regexp_matches(text,
    '(?:set_config|current_setting)\s*\(\s*''([A-Za-z_][A-Za-z0-9_$]*(?:\.[A-Za-z_][A-Za-z0-9_$]*)+)''|\mset\s+(?:session\s+|local\s+)?([A-Za-z_][A-Za-z0-9_$]*(?:\.[A-Za-z_][A-Za-z0-9_$]*)+)\s*(?:=|to\M)',
    'gi') AS both_groups, LATERAL (SELECT ARRAY[coalesce(both_groups[1], both_groups[2])] AS found) AS one WHERE found[1] IS NOT NULL)";

// Asks the session's own server, within the session, without touching its unnamed statement. `custom`: names of settings that
// no catalog lists, which the client has been seen to set. `login`: the user that it logged in as. `prepare`: the question is
// not prepared there yet.
Exchange ask_belongings(const std::set<std::string>& custom, std::string_view login, bool prepare);
// `statements`: as the wire showed them.
// `encoding`: the client's.
std::expected<Known, std::string> read_belongings(const Exchange& answered, const Statements& statements, std::string_view encoding);

// Makes them again on a connection that has nothing, or, after `discard`, anything of its own. Every request of it must succeed.
// `keep_tables`: its temporary tables are there already, and only their rows are put anew.
Exchange make_again(const Belongings& belongings, bool discard, bool keep_tables = false);
// Makes the new connection's server process ready for what the session does: its statements are planned, so that the first of them
// does not cost a multiple of the second. Runs nothing of them. Its failure means nothing.
Exchange warm_up();
// One row a lock: 't' where it was taken.
Exchange take_locks(const std::vector<AdvisoryLock>& locks);
Exchange drop_locks();
// A round trip through the session: what the server had to say to it before has come when it is answered.
Exchange nothing();

// What the client must be told after a move: settings whose value differs from what it was told last.
std::string changed_parameters(const std::map<std::string, std::string>& told, const std::map<std::string, std::string>& now);

// Names of custom settings ("app.tenant") that a statement sets, by its text: SET x.y, set_config('x.y', ...).
struct CustomSettings {
  std::vector<std::string> names;
  bool hidden = false;  // a name that the text does not show: set_config($1, ...)
  bool commit = false;  // COMMIT is in it, with something behind it: seen on the way, for who looks for ON COMMIT
};
CustomSettings custom_settings(std::string_view sql);

std::string quote_literal(std::string_view text);
std::string quote_name(std::string_view name);

}  // namespace midstream::gate
