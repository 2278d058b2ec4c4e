#include "movers/postgres/cluster.h"

#include <fmt/format.h>
#include <sys/random.h>

#include "base/text.h"
#include "sys/file.h"

namespace midstream::postgres {

Pool::Loan::~Loan() {
  if (session_ && session_->idle()) pool_->give_back(key_, std::move(*session_), generation_);
}

Result<Pool::Loan> Pool::get(const Session::Target& target, Deadline deadline, const std::stop_token& stop) {
  const auto key = fmt::format("{} {} {}", target.database, target.user, target.port);
  std::uint64_t generation = 0;
  for (;;) {
    std::optional<Session> found;
    {
      const std::lock_guard lock(mutex_);
      generation = generation_;
      if (const auto it = idle_.find(key); it != idle_.end()) {
        found.emplace(std::move(it->second.session));
        idle_.erase(it);
      }
    }
    if (!found) break;
    // A restart of the server shows only when the session is used.
    if (found->query("SELECT 1", {}, deadline, stop)) return Loan(*this, key, std::move(*found), generation);
  }
  return Loan(*this, key, TRY(Session::connect(target, deadline, stop)), generation);
}

void Pool::give_back(const std::string& key, Session session, std::uint64_t generation) {
  const std::lock_guard lock(mutex_);
  if (generation != generation_) return;
  // Before its like: the one used last knows the catalogs best.
  idle_.emplace_hint(idle_.lower_bound(key), key, Idle{std::move(session), boot_now()});
}

void Pool::drop(const std::string& database) {
  const std::lock_guard lock(mutex_);
  std::erase_if(idle_, [&](const auto& entry) { return entry.first.starts_with(database + ' '); });
}

void Pool::drop_older_than(Millis age) {
  const std::lock_guard lock(mutex_);
  std::erase_if(idle_, [&](const auto& entry) { return boot_now() - entry.second.since > age; });
}

void Pool::drop_all() {
  const std::lock_guard lock(mutex_);
  ++generation_;
  idle_.clear();
}

Session::Target Work::target(const std::string& database, const std::string& user) const {
  Session::Target target;
  target.host = options.socket_dir;
  target.port = mine().port;
  target.database = database;
  target.user = user;
  target.os_user = options.os_user;
  return target;
}

Result<Pool::Loan> Work::session(const std::string& database) const {
  return pool.get(target(database, plan.agent_role()), context.deadline, context.stop);
}

Result<Session> Work::maintenance() const {
  return Session::connect(target("postgres", options.superuser), context.deadline, context.stop);
}

Result<Rows> Work::run(const std::string& database, const std::string& sql, const Params& params) const {
  auto loan = TRY(session(database));
  return loan->run(sql, params, context.deadline, context.stop);
}

Result<Rows> Work::run_cluster(const std::string& sql, const Params& params) const {
  auto loan = TRY(pool.get(target("postgres", options.superuser), context.deadline, context.stop));
  return loan->run(sql, params, context.deadline, context.stop);
}

Result<Json> Work::ask(std::string_view verb, Json args) const {
  args["desired"] = plan.raw;
  return context.peers.call(theirs().host, "postgres", verb, args, context.task, context.deadline, context.stop);
}

Result<Json> Work::ask_gate(std::string_view verb, const std::string& database, std::string_view to, Json args) const {
  args["database"] = database;
  args["to"] = to;
  args["service"] = get_string_or(plan.raw, "service", "");
  return context.peers.call(plan.gate.host, "gate", verb, args, context.task, context.deadline, context.stop);
}

namespace {

std::filesystem::path record_path(const Context& context, const std::string& move) {
  return context.state / (move + ".json");
}

}  // namespace

Result<Json> Record::load(const Context& context, const std::string& move) {
  const auto path = record_path(context, move);
  if (!std::filesystem::exists(path)) return Json::object();
  return parse_json(TRY(read_file(path)));
}

Result<> Record::save(const Context& context, const std::string& move, const Json& record) {
  return write_file_durably(record_path(context, move), record.dump(1), 0600);
}

Result<> Record::remove(const Context& context, const std::string& move) {
  return remove_file_durably(record_path(context, move));
}

Result<Work> make_work(const Context& context, const PostgresOptions& options, Pool& pool, std::mutex& titles,
                       const Json& desired) {
  auto plan = TRY(parse_plan(desired, context.task.move));
  const bool on_old = context.host == plan.old_end.host;
  if (!on_old && context.host != plan.new_end.host)
    return refused(fmt::format("host {} is neither end of this database move", context.host));
  return Work{context, options, std::move(plan), on_old, pool, titles};
}

Result<std::string> random_secret() {
  char bytes[16];
  if (::getrandom(bytes, sizeof bytes, 0) != sizeof bytes) return errno_failure("no random bytes", errno);
  return to_hex(std::string_view(bytes, sizeof bytes));
}

Result<> wait_a_bit(Millis span, Deadline deadline, const std::stop_token& stop, std::string_view waiting_for) {
  if (stop.stop_requested())
    return failure(ErrorKind::cancelled, fmt::format("asked to stop while waiting for {}", waiting_for));
  if (deadline.expired()) return retry(fmt::format("out of time while waiting for {}", waiting_for));
  pause_for(span, stop);
  return {};
}

}  // namespace midstream::postgres
