#include "movers/postgres/physical_side.h"

#include <fmt/format.h>

#include "base/text.h"
#include "movers/postgres/as_user.h"
#include "movers/postgres/seed_backup.h"
#include "movers/postgres/server_unit.h"
#include "movers/postgres/stream.h"
#include "sys/child.h"
#include "sys/file.h"

namespace midstream::postgres {

namespace {

namespace fs = std::filesystem;

// A standby that is not heard is let go after that long: else a stop would wait for it.
constexpr const char* kLetGo = "5000";
constexpr Millis kLogin{3'000};

struct LocalServer {
  ServerUnit unit;
  fs::path data;
  int major = 0;
};

fs::path server_path(const Work& work) { return work.context.state / (work.plan.move + ".server"); }
fs::path given_path(const Work& work) { return work.context.state / (work.plan.move + ".given"); }

Result<LocalServer> local_server(const Work& work) {
  const auto note = TRY(parse_json(TRY(read_file(server_path(work)))));
  return LocalServer{server_unit_from_json(note.value("unit", Json::object())), fs::path(TRY(get_string(note, "data"))),
                     static_cast<int>(get_int_or(note, "major", 0))};
}

Result<Given> last_given(const Work& work) {
  std::error_code ignored;
  if (!fs::exists(given_path(work), ignored)) return Given{};
  const auto note = TRY(parse_json(TRY(read_file(given_path(work)))));
  return Given{TRY(get_int(note, "turn")), TRY(get_string(note, "lsn"))};
}

bool has_signal(const fs::path& data) {
  std::error_code ignored;
  return fs::exists(data / "standby.signal", ignored);
}

Result<> put_signal(const Work& work, const fs::path& data) {
  const auto as = TRY(AsUser::enter(work.options.os_user));
  return write_file_durably(data / "standby.signal", "", 0600);
}

Result<> take_signal_away(const Work& work, const fs::path& data) {
  const auto as = TRY(AsUser::enter(work.options.os_user));
  return remove_file_durably(data / "standby.signal");
}

struct Control {
  std::string state;  // "shut down"
  std::string checkpoint;
};

Result<Control> read_control(const Work& work, const LocalServer& server) {
  auto argv = as_server_user(work.options.os_user);
  for (const auto& word : std::vector<std::string>{"env", "LC_ALL=C", TRY(server_programs(server.major)) / "pg_controldata", server.data}) argv.push_back(word);
  const auto exit = TRY(run_child(argv, "", Deadline::in(Millis(20'000))));
  if (exit.code != 0) return retry(fmt::format("pg_controldata of {}: {}", server.data.native(), printable(trim(exit.err))));
  Control control;
  for (const auto& line : split(exit.out, '\n')) {
    const auto colon = line.find(':');
    if (colon == std::string::npos) continue;
    if (line.starts_with("Database cluster state:")) control.state = trim(line.substr(colon + 1));
    if (line.starts_with("Latest checkpoint location:")) control.checkpoint = trim(line.substr(colon + 1));
  }
  return control;
}

std::string conninfo(const Work& work, const fs::path& data) {
  return fmt::format("host={} port={} user={} passfile='{}' application_name={} connect_timeout=5 keepalives_idle=10 keepalives_interval=5 "
                     "keepalives_count=3 options='-c wal_sender_timeout={}'",
                     work.theirs().address, work.theirs().port, work.plan.replication_role(), (our_directory(work, data) / "pgpass").native(),
                     work.plan.seed_slot(), kLetGo);
}

// The row of this side says that it has given itself away in that turn.
bool yielded_here(const Work& work, const SideLook& look, std::int64_t turn) {
  return look.state == "yielded" && look.turn == turn && (turn % 2 != 0) == work.on_old;
}

Result<Given> note_given(const Work& work, std::int64_t turn, const std::string& lsn) {
  CHECK_OK(write_file_durably(given_path(work), Json{{"turn", turn}, {"lsn", lsn}}.dump(), 0600));
  work.at("stop.noted");
  return Given{turn, lsn};
}

Json attempt(std::string name, bool refused, std::string error) { return {{"attempt", std::move(name)}, {"refused", refused}, {"error", std::move(error)}}; }

Json login_attempt(const Work& work, std::string name, Session::Target target) {
  target.application = "midstream proof";
  target.quiet = false;
  auto session = Session::login(target, work.context.deadline.sooner(kLogin), work.context.stop);
  if (session) return attempt(std::move(name), false, "");
  return attempt(std::move(name), session.error().sqlstate == "28000" || session.error().sqlstate == "53300", session.error().message);
}

}  // namespace

const std::string& only_database(const Plan& plan) { return plan.databases.front(); }

Json to_json(const SideLook& look) {
  return {{"up", look.up},           {"recovering", look.recovering}, {"state", look.state},         {"turn", look.turn},     {"position", look.position},
          {"streaming", look.streaming}, {"lag_bytes", look.lag_bytes},   {"lag_ms", look.lag_ms}, {"signal", look.signal},
          {"given_turn", look.given.turn}, {"given_lsn", look.given.lsn}};
}

SideLook side_look_from_json(const Json& value) {
  SideLook look{get_bool_or(value, "up", false), get_bool_or(value, "recovering", false), get_string_or(value, "state", ""), get_int_or(value, "turn", 0),
                get_string_or(value, "position", ""), get_bool_or(value, "streaming", false), get_int_or(value, "lag_bytes", 0), get_int_or(value, "lag_ms", 0),
                get_bool_or(value, "signal", false), {get_int_or(value, "given_turn", 0), get_string_or(value, "given_lsn", "")}};
  return look;
}

Result<SideLook> look_at_side(const Work& work) {
  SideLook look;
  look.given = TRY(last_given(work));
  std::error_code ignored;
  if (fs::exists(server_path(work), ignored)) {
    const auto server = TRY(local_server(work));
    look.signal = has_signal(server.data);
    if (postmaster_of(server.data) == 0) return look;
  }
  auto session = TRY(work.session(only_database(work.plan)));
  auto rows = session->query(
      fmt::format("SELECT state, turn, r, CASE WHEN r THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, CASE WHEN r THEN EXISTS (SELECT FROM "
                  "pg_stat_wal_receiver WHERE status = 'streaming') ELSE EXISTS (SELECT FROM pg_stat_replication WHERE application_name = {0} AND state = "
                  "'streaming') END, CASE WHEN r THEN 0 ELSE coalesce((SELECT pg_current_wal_lsn() - replay_lsn FROM pg_stat_replication WHERE "
                  "application_name = {0} LIMIT 1), 0) END::bigint, coalesce((SELECT extract(epoch FROM replay_lag) * 1000 FROM pg_stat_replication WHERE "
                  "application_name = {0} LIMIT 1), 0)::bigint FROM midstream.owner, pg_is_in_recovery() r",
                  quote(work.plan.seed_slot())),
      {}, work.context.deadline, work.context.stop);
  if (!rows && (rows.error().sqlstate == "42P01" || rows.error().sqlstate == "3F000")) return look.up = true, look;
  if (!rows) return std::unexpected(to_error(rows.error(), fmt::format("cannot read the title of {}", only_database(work.plan))));
  look.up = true;
  if (rows->size() == 0) return look;
  look.state = rows->text(0, 0);
  look.turn = rows->number(0, 1);
  look.recovering = rows->truth(0, 2);
  look.position = rows->text(0, 3);
  look.streaming = rows->truth(0, 4);
  look.lag_bytes = rows->number(0, 5);
  look.lag_ms = rows->number(0, 6);
  return look;
}

Result<> remember_server(const Work& work) {
  const auto rows = TRY(work.run_cluster("SELECT current_setting('data_directory'), current_setting('server_version_num')::int / 10000"));
  const fs::path data = rows.text(0, 0);
  const auto unit = TRY(find_server_unit(work, data));
  (void)TRY(server_programs(static_cast<int>(rows.number(0, 1))));
  return write_file_durably(server_path(work), Json{{"unit", to_json(unit)}, {"data", data.native()}, {"major", rows.number(0, 1)}}.dump(), 0600);
}

Result<std::string> standby_lines(const Work& work) {
  const fs::path data = TRY(work.run_cluster("SHOW data_directory")).text(0, 0);
  return fmt::format("primary_conninfo = {}\nprimary_slot_name = {}\n", quote(conninfo(work, data)), quote(work.plan.seed_slot()));
}

Result<> point_at_other(const Work& work) {
  const fs::path data = TRY(work.run_cluster("SHOW data_directory")).text(0, 0);
  CHECK_OK(work.run_cluster("ALTER SYSTEM SET primary_conninfo = " + quote(conninfo(work, data))));
  CHECK_OK(work.run_cluster("ALTER SYSTEM SET primary_slot_name = " + quote(work.plan.seed_slot())));
  CHECK_OK(work.run_cluster("SELECT pg_reload_conf()"));
  return {};
}

Result<> forget_other(const Work& work) {
  const auto ours = TRY(work.run_cluster("SELECT 1 FROM pg_file_settings WHERE name = 'primary_slot_name' AND setting = $1", {work.plan.seed_slot()}));
  if (ours.size() > 0) {
    CHECK_OK(work.run_cluster("ALTER SYSTEM RESET primary_conninfo"));
    CHECK_OK(work.run_cluster("ALTER SYSTEM RESET primary_slot_name"));
    CHECK_OK(work.run_cluster("SELECT pg_reload_conf()"));
  }
  CHECK_OK(remove_file_durably(given_path(work)));
  return remove_file_durably(server_path(work));
}

Result<Given> stop_for_good(const Work& work, std::int64_t turn) {
  const auto given = TRY(last_given(work));
  if (given.turn == turn) return given;
  const auto server = TRY(local_server(work));
  // Nobody was told of a clean stop in this turn, so nobody has promoted: until then this side may come up as the primary again,
  // yielded and fenced by its own row, as often as it takes.
  for (int round = 0; round < 4; ++round) {
    const auto look = TRY(look_at_side(work));
    if (look.up && !look.recovering) {
      if (!yielded_here(work, look, turn))
        return refused(fmt::format("{} on {} is '{}' in turn {}, it has not yielded in turn {}", only_database(work.plan), work.context.host, look.state, look.turn, turn));
      CHECK_OK(put_signal(work, server.data));
      work.at("stop.signal");
      CHECK_OK(stop_server(work, server.unit, server.data));
      work.pool.drop_all();
      work.at("stop.stopped");
    } else if (look.up) {
      // Started again on the signal before the stop was noted: whether it was a clean one is not known any more.
      if (!yielded_here(work, look, turn)) return refused(fmt::format("{} recovers from the other side's log, it has nothing to give", work.context.host));
      CHECK_OK(stop_server(work, server.unit, server.data));
      work.pool.drop_all();
    }
    const auto control = TRY(read_control(work, server));
    if (control.state == "shut down" && has_signal(server.data)) return note_given(work, turn, control.checkpoint);
    CHECK_OK(take_signal_away(work, server.data));
    CHECK_OK(start_server(work, server.unit, server.data));
    work.at("stop.again");
  }
  return retry(fmt::format("the server on {} does not come to a clean stop", work.context.host));
}

Result<> start_again(const Work& work) {
  const auto server = TRY(local_server(work));
  if (postmaster_of(server.data) == 0) work.pool.drop_all();
  return start_server(work, server.unit, server.data);
}

Result<> retire_standby(const Work& work) {
  std::error_code ignored;
  if (!fs::exists(server_path(work), ignored)) return {};
  const auto server = TRY(local_server(work));
  if (postmaster_of(server.data) != 0) {
    const auto look = TRY(look_at_side(work));
    if (!look.recovering) return refused(fmt::format("{} on {} is '{}'", only_database(work.plan), work.context.host, look.state), "switch first");
    CHECK_OK(remove_pass_file(work));
    CHECK_OK(stop_server(work, server.unit, server.data));
    work.pool.drop_all();
  }
  work.at("finish.stopped");
  CHECK_OK(Record::remove(work.context, work.plan.move));
  CHECK_OK(remove_file_durably(given_path(work)));
  return remove_file_durably(server_path(work));
}

Result<Json> prove_standby(const Work& work) {
  const auto& database = only_database(work.plan);
  Json proof = Json::array();
  const auto record = TRY(Record::load(work.context, work.plan.move));
  auto ordinary = work.target(database, work.plan.probe_role());
  ordinary.password = get_string_or(record, "probe_password", "");
  // Over the socket the access file has a line for it, for the proof on other roads, where the limit of connections keeps it out.
  ordinary.host = work.mine().address;
  ordinary.os_user = "";
  proof.push_back(login_attempt(work, "new login over TCP, ordinary role", ordinary));
  proof.push_back(login_attempt(work, "new login, superuser", work.target(database, work.options.superuser)));
  auto session = TRY(work.session(database));
  const auto wrote = session->query("INSERT INTO midstream.proof VALUES (1)", {}, work.context.deadline, work.context.stop);
  proof.push_back(attempt("a write as our own role", !wrote && wrote.error().sqlstate == "25006", wrote ? "" : wrote.error().message));
  for (auto& one : proof) one["host"] = work.context.host, one["database"] = database;
  return proof;
}

}  // namespace midstream::postgres
