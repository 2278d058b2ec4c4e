// libpq in its asynchronous form (PostgreSQL manual, chapter 34), loaded when it is needed: the host of the probe may
// have none.
#include <dlfcn.h>
#include <fmt/format.h>
#include <poll.h>
#include <postgresql/libpq-fe.h>

#include <algorithm>
#include <expected>

#include "base/text.h"
#include "probe/outcome.h"
#include "sys/stream.h"

namespace midstream {

namespace {

constexpr auto kReconnectPause = std::chrono::milliseconds(20);

struct Pq {
  decltype(&::PQconninfoParse) conninfo_parse;
  decltype(&::PQconninfoFree) conninfo_free;
  decltype(&::PQfreemem) freemem;
  decltype(&::PQconnectStartParams) connect_start;
  decltype(&::PQconnectPoll) connect_poll;
  decltype(&::PQstatus) status;
  decltype(&::PQsocket) socket;
  decltype(&::PQfinish) finish;
  decltype(&::PQsetnonblocking) set_nonblocking;
  decltype(&::PQsendQueryParams) send_query;
  decltype(&::PQflush) flush;
  decltype(&::PQconsumeInput) consume_input;
  decltype(&::PQisBusy) is_busy;
  decltype(&::PQgetResult) get_result;
  decltype(&::PQresultStatus) result_status;
  decltype(&::PQresultErrorField) error_field;
  decltype(&::PQgetvalue) get_value;
  decltype(&::PQntuples) rows;
  decltype(&::PQclear) clear;
  decltype(&::PQsetNoticeProcessor) set_notice_processor;
};

template <class Function>
bool load(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(::dlsym(library, name));
  return function != nullptr;
}

Result<Pq> load_pq() {
  // Never closed: libpq and what it brings along do not expect to be.
  void* library = ::dlopen("libpq.so.5", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return refused("this host has no libpq.so.5, which probes of databases need", "install libpq5 on the vantage host");
  Pq pq{};
  const bool good = load(library, "PQconninfoParse", pq.conninfo_parse) && load(library, "PQconninfoFree", pq.conninfo_free) &&
                    load(library, "PQfreemem", pq.freemem) && load(library, "PQconnectStartParams", pq.connect_start) &&
                    load(library, "PQconnectPoll", pq.connect_poll) && load(library, "PQstatus", pq.status) &&
                    load(library, "PQsocket", pq.socket) && load(library, "PQfinish", pq.finish) &&
                    load(library, "PQsetnonblocking", pq.set_nonblocking) && load(library, "PQsendQueryParams", pq.send_query) &&
                    load(library, "PQflush", pq.flush) && load(library, "PQconsumeInput", pq.consume_input) &&
                    load(library, "PQisBusy", pq.is_busy) && load(library, "PQgetResult", pq.get_result) &&
                    load(library, "PQresultStatus", pq.result_status) && load(library, "PQresultErrorField", pq.error_field) &&
                    load(library, "PQgetvalue", pq.get_value) && load(library, "PQntuples", pq.rows) &&
                    load(library, "PQclear", pq.clear) && load(library, "PQsetNoticeProcessor", pq.set_notice_processor);
  if (!good) return refused("this host's libpq.so.5 lacks a function that probes of databases need", "install PostgreSQL 12's libpq5 or a newer one");
  return pq;
}

using Settings = std::vector<std::pair<std::string, std::string>>;

Result<Settings> parse_settings(const Pq& pq, const std::string& conninfo) {
  char* message = nullptr;
  auto* options = pq.conninfo_parse(conninfo.c_str(), &message);
  if (options == nullptr) {
    pq.freemem(message);  // not repeated: it quotes the text, which may hold a secret
    return refused("probe configuration: the target of a postgres probe is no libpq connection string");
  }
  Settings settings;
  bool secret = false;
  for (const auto* option = options; option->keyword != nullptr; ++option) {
    if (option->val == nullptr) continue;
    settings.emplace_back(option->keyword, option->val);
    secret = secret || settings.back().first == "password";
  }
  pq.conninfo_free(options);
  if (secret) return refused("probe configuration: a postgres probe's target holds a password", "put it into a file and name that in password_file");
  return settings;
}

std::string setting(const Settings& settings, std::string_view key) {
  const auto found = std::ranges::find(settings, key, &std::pair<std::string, std::string>::first);
  return found == settings.end() ? "" : found->second;
}

std::string quote(const std::string& table) {
  auto parts = split(table, '.');
  for (auto& part : parts) part = '"' + part + '"';  // letters, digits and _ only: parse_probe_config saw to that
  return join(parts, ".");
}

// With $1: a number that no other probe uses.
std::string statement_for(const ServiceProbe& service) {
  const std::string who = "coalesce(host(inet_server_addr()) || ':' || inet_server_port(), 'local')";
  if (!service.write) return fmt::format("SELECT {} WHERE $1::bigint IS NOT NULL", who);
  return fmt::format("INSERT INTO {} (n, at) VALUES ($1::bigint, now()) ON CONFLICT (n) DO UPDATE SET at = now() RETURNING {}",
                     quote(service.table), who);
}

// How one attempt ended: with an answer, the server's word about the statement included, or with a connection that is
// of no use.
enum class Attempt { answered, lost };

class PostgresProber final : public Prober {
 public:
  PostgresProber(Pq pq, Settings settings, const ServiceProbe& service, Resolver& resolver)
      : pq_(pq), settings_(std::move(settings)), resolver_(resolver), statement_(statement_for(service)) {}

  Finding probe(Deadline deadline, const std::stop_token& stop) override;

 private:
  struct Closer {
    const Pq* pq;
    void operator()(PGconn* connection) const { pq->finish(connection); }
  };
  using Connection = std::unique_ptr<PGconn, Closer>;

  // A kept connection, the one used last; or none.
  Connection take();
  void give(Connection connection);
  Connection connect(Finding& finding, Deadline deadline, const std::stop_token& stop);
  Connection start(const std::string& addresses, const std::string& names);
  Attempt ask(PGconn* connection, Finding& finding, Deadline deadline, const std::stop_token& stop);
  Attempt read(PGconn* connection, Finding& finding, Deadline deadline, const std::stop_token& stop);
  Attempt judge(PGconn* connection, const PGresult* result, Finding& finding, Deadline deadline) const;

  const Pq pq_;
  const Settings settings_;
  Resolver& resolver_;
  const std::string statement_;
  std::mutex mutex_;  // guards idle_
  std::vector<Connection> idle_;
};

Finding PostgresProber::probe(Deadline deadline, const std::stop_token& stop) {
  std::optional<Finding> reason;  // why the first connection that failed did
  for (auto connection = take();; connection.reset()) {
    Finding finding;
    if (!connection) connection = connect(finding, deadline, stop);
    if (connection && ask(connection.get(), finding, deadline, stop) == Attempt::answered) {
      give(std::move(connection));
      if (reason && finding.outcome == ProbeOutcome::ok) finding.error = "reconnected";
      return finding;
    }
    if (!reason) reason = finding;
    const auto left = deadline.remaining();
    if (left == Millis(0) || !pause_for(std::min(kReconnectPause, left), stop) || deadline.expired()) return *reason;
  }
}

PostgresProber::Connection PostgresProber::take() {
  const std::lock_guard lock(mutex_);
  if (idle_.empty()) return {nullptr, Closer{&pq_}};
  auto connection = std::move(idle_.back());
  idle_.pop_back();
  return connection;
}

void PostgresProber::give(Connection connection) {
  const std::lock_guard lock(mutex_);
  idle_.push_back(std::move(connection));
}

PostgresProber::Connection PostgresProber::start(const std::string& addresses, const std::string& names) {
  auto settings = settings_;
  std::erase_if(settings, [&](const auto& one) { return one.first == "host" && !names.empty(); });
  if (!names.empty()) settings.insert(settings.end(), {{"host", names}, {"hostaddr", addresses}});
  std::vector<const char*> keys;
  std::vector<const char*> values;
  for (const auto& [key, value] : settings) {
    keys.push_back(key.c_str());
    values.push_back(value.c_str());
  }
  keys.push_back(nullptr);
  values.push_back(nullptr);
  return {pq_.connect_start(keys.data(), values.data(), 0), Closer{&pq_}};
}

PostgresProber::Connection PostgresProber::connect(Finding& finding, Deadline deadline, const std::stop_token& stop) {
  // libpq would wait for the name server as long as that likes: it is given addresses.
  const auto host = setting(settings_, "host");
  const bool by_name = !host.empty() && !host.starts_with('/') && setting(settings_, "hostaddr").empty();
  std::vector<std::string> addresses;
  if (by_name) {
    auto found = resolver_.lookup(host, deadline, stop);
    if (!found) {
      finding = failed_finding("dns", deadline);
      return {nullptr, Closer{&pq_}};
    }
    addresses = std::move(*found);
  }
  auto connection = start(join(addresses, ","), join(std::vector<std::string>(addresses.size(), host), ","));
  auto state = PGRES_POLLING_WRITING;
  while (connection && pq_.status(connection.get()) != CONNECTION_BAD && state != PGRES_POLLING_FAILED) {
    if (state == PGRES_POLLING_OK) {
      pq_.set_nonblocking(connection.get(), 1);
      pq_.set_notice_processor(connection.get(), [](void*, const char*) {}, nullptr);
      return connection;
    }
    const auto events = static_cast<short>(state == PGRES_POLLING_READING ? POLLIN : POLLOUT);
    if (!wait_fd(pq_.socket(connection.get()), events, deadline, stop)) break;
    state = pq_.connect_poll(connection.get());
  }
  finding = failed_finding("connect", deadline);
  return {nullptr, Closer{&pq_}};
}

Attempt PostgresProber::ask(PGconn* connection, Finding& finding, Deadline deadline, const std::stop_token& stop) {
  const auto number = std::to_string(std::chrono::duration_cast<std::chrono::microseconds>(
                                         std::chrono::system_clock::now().time_since_epoch()).count());
  const char* values[] = {number.c_str()};
  finding = failed_finding("closed", deadline);
  if (pq_.send_query(connection, statement_.c_str(), 1, nullptr, values, nullptr, nullptr, 0) != 1) return Attempt::lost;
  while (const int left = pq_.flush(connection)) {
    if (left < 0) return Attempt::lost;
    if (!wait_fd(pq_.socket(connection), POLLOUT, deadline, stop)) {
      finding = failed_finding("stopped", deadline);
      return Attempt::lost;
    }
  }
  return read(connection, finding, deadline, stop);
}

Attempt PostgresProber::read(PGconn* connection, Finding& finding, Deadline deadline, const std::stop_token& stop) {
  std::optional<Attempt> attempt;
  while (true) {
    while (pq_.is_busy(connection) != 0) {
      if (!wait_fd(pq_.socket(connection), POLLIN, deadline, stop)) {
        finding = failed_finding("stopped", deadline);
        return Attempt::lost;
      }
      if (pq_.consume_input(connection) != 1) return attempt.value_or(Attempt::lost);
    }
    const std::unique_ptr<PGresult, decltype(pq_.clear)> result(pq_.get_result(connection), pq_.clear);
    if (!result) return attempt.value_or(Attempt::lost);
    if (!attempt) attempt = judge(connection, result.get(), finding, deadline);
  }
}

Attempt PostgresProber::judge(PGconn* connection, const PGresult* result, Finding& finding, Deadline deadline) const {
  if (pq_.result_status(result) == PGRES_TUPLES_OK && pq_.rows(result) == 1) {
    finding = {ProbeOutcome::ok, "", pq_.get_value(result, 0, 0)};
    return Attempt::answered;
  }
  const char* code = pq_.error_field(result, PG_DIAG_SQLSTATE);
  const std::string_view state = code == nullptr ? "" : code;
  if (!state.empty()) finding = failed_finding(fmt::format("sql-{}", state), deadline);
  // Class 08 is about connections; 57P01 to 57P03: the server goes away, or is not there yet.
  const bool gone = state.empty() || state.starts_with("08") || state.starts_with("57P") || pq_.status(connection) != CONNECTION_OK;
  return gone ? Attempt::lost : Attempt::answered;
}

}  // namespace

Result<std::unique_ptr<Prober>> make_postgres_prober(const ServiceProbe& service, Resolver& resolver) {
  const auto pq = TRY(load_pq());
  auto settings = TRY(parse_settings(pq, service.target));
  const auto add = [&](const std::string& key, const std::string& value) {
    if (setting(settings, key).empty()) settings.emplace_back(key, value);
  };
  if (!service.password_file.empty()) add("passfile", service.password_file);
  add("application_name", "midstream-probe");
  add("gssencmode", "disable");
  return std::make_unique<PostgresProber>(pq, std::move(settings), service, resolver);
}

}  // namespace midstream
