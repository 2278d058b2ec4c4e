#include "movers/postgres/libpq.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <libpq-fe.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "movers/postgres/as_user.h"
#include "sys/stream.h"

namespace midstream::postgres {

namespace {

// The functions of libpq that are used here, by their own types.
struct Api {
#define MIDSTREAM_PQ(name) decltype(&::name) name = nullptr;
#define MIDSTREAM_PQ_ALL(X)                                                                                          \
  X(PQconnectStartParams)                                                                                            \
  X(PQconnectPoll)                                                                                                   \
  X(PQstatus) X(PQfinish) X(PQerrorMessage) X(PQsocket) X(PQsetnonblocking) X(PQsendQuery) X(PQsendQueryParams)      \
      X(PQflush) X(PQconsumeInput) X(PQisBusy) X(PQgetResult) X(PQresultStatus) X(PQresultErrorField) X(PQclear)     \
          X(PQntuples) X(PQgetisnull) X(PQgetvalue) X(PQgetlength) X(PQcmdTuples) X(PQtransactionStatus)             \
              X(PQbackendPID) X(PQserverVersion) X(PQgetCancel) X(PQcancel) X(PQfreeCancel) X(PQencryptPasswordConn) \
                  X(PQfreemem) X(PQsetNoticeProcessor) X(PQresultErrorMessage) X(PQgetCopyData) X(PQputCopyData) X(PQputCopyEnd)
  MIDSTREAM_PQ_ALL(MIDSTREAM_PQ)
#undef MIDSTREAM_PQ
  bool loaded = false;
};

const Api& api() {
  static const Api loaded = [] {
    Api it;
    void* library = ::dlopen("libpq.so.5", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return it;
    it.loaded = true;
#define MIDSTREAM_PQ(name)                                                \
  it.name = reinterpret_cast<decltype(it.name)>(::dlsym(library, #name)); \
  it.loaded = it.loaded && it.name != nullptr;
    MIDSTREAM_PQ_ALL(MIDSTREAM_PQ)
#undef MIDSTREAM_PQ
    return it;
  }();
  return loaded;
}

// Nothing that these sessions say may reach the server's log or its statement statistics, whatever the
// server's own configuration asks for. Settings of extensions that are not loaded are placeholders.
constexpr const char* kQuiet =
    "-c log_statement=none -c log_min_duration_statement=-1 -c log_min_duration_sample=-1 -c "
    "log_duration=off "
    "-c log_min_error_statement=panic -c log_min_messages=fatal -c log_transaction_sample_rate=0 "
    "-c log_parameter_max_length=0 -c log_parameter_max_length_on_error=0 -c debug_print_parse=off "
    "-c pg_stat_statements.track=none -c pg_stat_statements.track_utility=off "
    "-c auto_explain.log_min_duration=-1 -c pgaudit.log=none ";
// What is read and compared must look the same on both sides, and nothing may end our sessions early.
constexpr const char* kSame =
    "-c TimeZone=UTC -c DateStyle=ISO -c IntervalStyle=postgres -c extra_float_digits=3 -c bytea_output=hex "
    "-c lc_monetary=C -c quote_all_identifiers=off -c jit=off "
    "-c search_path= -c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 "
    "-c idle_session_timeout=0 -c client_min_messages=error -c row_security=off "
    "-c default_transaction_read_only=off -c default_transaction_isolation=read\\ committed "
    "-c default_transaction_deferrable=off ";

std::string trimmed(const char* message) {
  std::string text = message == nullptr ? "" : message;
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

SqlError lost(std::string message) { return {"", std::move(message), true, false}; }

SqlError from_result(pg_conn* conn, pg_result* result) {
  const char* state = api().PQresultErrorField(result, PG_DIAG_SQLSTATE);
  const char* primary = api().PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
  SqlError error{state == nullptr ? "" : state,
                 trimmed(primary != nullptr ? primary : api().PQresultErrorMessage(result)),
                 api().PQstatus(conn) != CONNECTION_OK, false};
  return error;
}

// libpq keeps no SQLSTATE for a failed start-up; the text tells the refusals that matter apart.
std::string login_state(const std::string& message) {
  const auto has = [&](std::string_view part) { return message.find(part) != std::string::npos; };
  if (has("too many connections for")) return "53300";
  if (has("pg_hba.conf")) return "28000";
  if (has("is not currently accepting connections")) return "55000";
  if (has("authentication failed")) return "28P01";
  if (has("starting up") || has("shutting down")) return "57P03";
  if (has("does not exist")) return "3D000";
  return "";
}

bool wait_socket(pg_conn* conn, short events, Deadline deadline, const std::stop_token& stop) {
  return wait_fd(api().PQsocket(conn), events, deadline, stop).has_value();
}

}  // namespace

Rows::~Rows() {
  if (result_ != nullptr) api().PQclear(result_);
}
int Rows::size() const { return api().PQntuples(result_); }
std::int64_t Rows::affected() const { return std::atoll(api().PQcmdTuples(result_)); }
bool Rows::copying() const {
  const auto status = api().PQresultStatus(result_);
  return status == PGRES_COPY_IN || status == PGRES_COPY_OUT;
}
bool Rows::is_null(int row, int column) const { return api().PQgetisnull(result_, row, column) != 0; }
std::string Rows::text(int row, int column) const {
  return {api().PQgetvalue(result_, row, column), static_cast<std::size_t>(api().PQgetlength(result_, row, column))};
}
std::int64_t Rows::number(int row, int column) const {
  const auto value = text(row, column);
  std::int64_t out = 0;
  std::from_chars(value.data(), value.data() + value.size(), out);
  return out;
}
bool Rows::truth(int row, int column) const { return text(row, column) == "t"; }
std::vector<std::string> Rows::column(int column) const {
  std::vector<std::string> out;
  for (int i = 0; i < size(); ++i) out.push_back(text(i, column));
  return out;
}

std::expected<Session, SqlError> Session::login(const Target& target, Deadline deadline, const std::stop_token& stop) {
  if (!api().loaded) return std::unexpected(lost("libpq.so.5 cannot be loaded on this host (package libpq5)"));
  const std::string port = std::to_string(target.port);
  const std::string options = std::string(target.quiet ? kQuiet : "") + kSame + target.options;
  const std::array<const char*, 14> keys{"host",     "port",       "dbname",           "user",
                                         "password", "passfile",   "application_name", "options",
                                         "sslmode",  "gssencmode", "client_encoding",  "keepalives_idle",
                                         "replication", nullptr};
  const bool local = target.host.starts_with('/');
  const std::array<const char*, 14> values{target.host.c_str(),
                                           port.c_str(),
                                           target.database.c_str(),
                                           target.user.c_str(),
                                           target.password.c_str(),
                                           "/dev/null/none",
                                           target.application.c_str(),
                                           options.c_str(),
                                           local ? "disable" : "prefer",
                                           "disable",
                                           "UTF8",
                                           "10",
                                           target.replication ? "database" : "false",
                                           nullptr};
  std::optional<AsUser> as;
  if (!target.os_user.empty()) {
    auto entered = AsUser::enter(target.os_user);
    if (!entered) return std::unexpected(lost(entered.error().text()));
    as.emplace(std::move(*entered));
  }
  Session session(api().PQconnectStartParams(keys.data(), values.data(), 0));
  if (session.conn_ == nullptr) return std::unexpected(lost("out of memory"));
  api().PQsetNoticeProcessor(
      session.conn_, [](void*, const char*) {}, nullptr);
  for (auto polled = PGRES_POLLING_WRITING; polled != PGRES_POLLING_OK; polled = api().PQconnectPoll(session.conn_)) {
    if (polled == PGRES_POLLING_FAILED || api().PQstatus(session.conn_) == CONNECTION_BAD) {
      auto message = trimmed(api().PQerrorMessage(session.conn_));
      auto state = login_state(message);
      return std::unexpected(SqlError{std::move(state), std::move(message), true, false});
    }
    if (!wait_socket(session.conn_, polled == PGRES_POLLING_READING ? POLLIN : POLLOUT, deadline, stop))
      return std::unexpected(SqlError{"", "the server did not answer the login in time", true, true});
  }
  api().PQsetnonblocking(session.conn_, 1);
  if (session.server_version() >= 170000) {  // unknown to older ones, and then fatal in the options
    auto off = session.query("SET transaction_timeout = 0", {}, deadline, stop);
    if (!off) return std::unexpected(off.error());
  }
  return session;
}

Result<Session> Session::connect(const Target& target, Deadline deadline, const std::stop_token& stop) {
  auto session = login(target, deadline, stop);
  if (session) return std::move(*session);
  const auto& error = session.error();
  const auto what = fmt::format("cannot log in to database {} at {}:{} as {}: {}", target.database, target.host,
                                target.port, target.user, error.message);
  if (error.sqlstate == "28000" || error.sqlstate == "28P01" || error.sqlstate == "3D000")
    return refused(what, "see pg_hba.conf and the server's log");
  return retry(what);
}

Session::~Session() {
  if (conn_ != nullptr) api().PQfinish(conn_);
}

std::expected<Rows, SqlError> Session::query(const std::string& sql, const Params& params, Deadline deadline,
                                             const std::stop_token& stop) {
  if (api().PQstatus(conn_) != CONNECTION_OK) return std::unexpected(lost("the connection is closed"));
  std::vector<const char*> values;
  for (const auto& param : params) values.push_back(param ? param->c_str() : nullptr);
  const int sent = params.empty() ? api().PQsendQuery(conn_, sql.c_str())
                                  : api().PQsendQueryParams(conn_, sql.c_str(), static_cast<int>(values.size()),
                                                            nullptr, values.data(), nullptr, nullptr, 0);
  if (sent == 0) return std::unexpected(lost(trimmed(api().PQerrorMessage(conn_))));
  auto rows = collect(deadline, stop);
  if (rows || !rows.error().out_of_time) return rows;
  std::array<char, 256> why{};
  if (auto* cancel = api().PQgetCancel(conn_); cancel != nullptr) {
    api().PQcancel(cancel, why.data(), why.size());
    api().PQfreeCancel(cancel);
  }
  // The cancel may cross the end of the statement: what it says in the end is what happened.
  auto late = collect(Deadline::in(Millis(2000)), {});
  if (late) return late;
  auto error = late.error();
  if (error.out_of_time) error.connection_lost = true;
  error.out_of_time = true;
  return std::unexpected(std::move(error));
}

std::expected<Rows, SqlError> Session::collect(Deadline deadline, const std::stop_token& stop) {
  std::optional<Rows> last;
  std::optional<SqlError> failed;
  for (;;) {
    while (api().PQisBusy(conn_) != 0) {
      const int flushed = api().PQflush(conn_);
      const short events = static_cast<short>(POLLIN | (flushed == 1 ? POLLOUT : 0));
      if (flushed < 0 || !wait_socket(conn_, events, deadline, stop)) {
        if (flushed < 0) return std::unexpected(lost(trimmed(api().PQerrorMessage(conn_))));
        return std::unexpected(SqlError{"", "the statement did not end in time", false, true});
      }
      if (api().PQconsumeInput(conn_) == 0) return std::unexpected(lost(trimmed(api().PQerrorMessage(conn_))));
    }
    pg_result* result = api().PQgetResult(conn_);
    if (result == nullptr) break;
    Rows rows(result);
    const auto status = api().PQresultStatus(result);
    if (status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK || status == PGRES_EMPTY_QUERY) {
      last = std::move(rows);
    } else {
      failed = from_result(conn_, result);
      if (status == PGRES_COPY_IN || status == PGRES_COPY_OUT || failed->connection_lost) break;
    }
  }
  if (failed) return std::unexpected(std::move(*failed));
  if (!last) return std::unexpected(lost("the server answered nothing"));
  return std::move(*last);
}

SqlError Session::error_now() const { return lost(trimmed(api().PQerrorMessage(conn_))); }

std::expected<void, SqlError> Session::wait_io(short events, Deadline deadline, const std::stop_token& stop) {
  if (!wait_socket(conn_, events, deadline, stop))
    return std::unexpected(SqlError{"", "the copy did not go on in time", true, true});
  if (api().PQconsumeInput(conn_) == 0) return std::unexpected(error_now());
  return {};
}

std::expected<void, SqlError> Session::begin_copy(const std::string& sql, Deadline deadline,
                                                  const std::stop_token& stop) {
  if (api().PQstatus(conn_) != CONNECTION_OK) return std::unexpected(lost("the connection is closed"));
  if (api().PQsendQuery(conn_, sql.c_str()) == 0) return std::unexpected(error_now());
  while (api().PQisBusy(conn_) != 0) {
    const int flushed = api().PQflush(conn_);
    if (flushed < 0) return std::unexpected(error_now());
    if (auto came = wait_io(static_cast<short>(POLLIN | (flushed == 1 ? POLLOUT : 0)), deadline, stop); !came)
      return came;
  }
  Rows rows(api().PQgetResult(conn_));
  if (rows.none()) return std::unexpected(lost("the server answered nothing"));
  if (rows.copying()) return {};
  auto error = from_result(conn_, rows.raw());
  (void)collect(deadline, stop);
  return std::unexpected(std::move(error));
}

std::expected<bool, SqlError> Session::read_copy(std::string& buffer, std::size_t most, Deadline deadline,
                                                 const std::stop_token& stop) {
  for (const auto before = buffer.size();;) {
    char* data = nullptr;
    const int size = api().PQgetCopyData(conn_, &data, 1);
    if (size > 0) {
      buffer.append(data, static_cast<std::size_t>(size));
      api().PQfreemem(data);
      if (buffer.size() - before >= most) return true;
      continue;
    }
    if (size == 0) {
      if (auto came = wait_io(POLLIN, deadline, stop); !came) return std::unexpected(came.error());
      continue;
    }
    if (size == -2) return std::unexpected(error_now());
    auto end = collect(deadline, stop);
    if (!end) return std::unexpected(end.error());
    return false;
  }
}

std::expected<void, SqlError> Session::put_copy(std::string_view data, Deadline deadline, const std::stop_token& stop) {
  for (int sent = 0; (sent = api().PQputCopyData(conn_, data.data(), static_cast<int>(data.size()))) != 1;) {
    if (sent < 0) return std::unexpected(error_now());
    if (auto room = wait_io(POLLIN | POLLOUT, deadline, stop); !room) return room;
  }
  // Nothing is queued beyond what the socket takes: memory stays small, and the writer feels the reader's pace.
  for (int left = 0; (left = api().PQflush(conn_)) != 0;) {
    if (left < 0) return std::unexpected(error_now());
    if (auto room = wait_io(POLLIN | POLLOUT, deadline, stop); !room) return room;
  }
  return {};
}

std::expected<std::int64_t, SqlError> Session::end_copy(Deadline deadline, const std::stop_token& stop) {
  for (int sent = 0; (sent = api().PQputCopyEnd(conn_, nullptr)) != 1;) {
    if (sent < 0) return std::unexpected(error_now());
    if (auto room = wait_io(POLLIN | POLLOUT, deadline, stop); !room) return std::unexpected(room.error());
  }
  auto end = collect(deadline, stop);
  if (!end) return std::unexpected(end.error());
  return end->affected();
}

Result<Rows> Session::run(const std::string& sql, const Params& params, Deadline deadline,
                          const std::stop_token& stop) {
  auto rows = query(sql, params, deadline, stop);
  if (rows) return std::move(*rows);
  return std::unexpected(to_error(rows.error(), "a statement failed"));
}

bool Session::idle() const {
  return api().PQstatus(conn_) == CONNECTION_OK && api().PQtransactionStatus(conn_) == PQTRANS_IDLE;
}
int Session::socket() const { return api().PQsocket(conn_); }
int Session::pid() const { return api().PQbackendPID(conn_); }
int Session::server_version() const { return api().PQserverVersion(conn_); }

Result<std::string> Session::verifier(const std::string& user, const std::string& password) {
  char* made = api().PQencryptPasswordConn(conn_, password.c_str(), user.c_str(), "scram-sha-256");
  if (made == nullptr) return refused("libpq could not make a password verifier");
  std::string text = made;
  api().PQfreemem(made);
  return text;
}

Error to_error(const SqlError& error, std::string_view doing) {
  auto what = fmt::format("{}: {}{}", doing, error.message,
                          error.sqlstate.empty() ? "" : fmt::format(" (SQLSTATE {})", error.sqlstate));
  auto kind = ErrorKind::refused;
  if (error.connection_lost) {
    kind = ErrorKind::unknown;
  } else if (error.out_of_time) {
    kind = ErrorKind::retry;
  } else {
    // Resources, locks, serialization, administrator's shutdown, connection: these pass.
    for (const std::string_view passing : {"53", "55P03", "40", "57", "08", "55006"})
      if (error.sqlstate.starts_with(passing)) kind = ErrorKind::retry;
  }
  return {kind, std::move(what), ""};
}

std::string quote(std::string_view text) {
  std::string out;
  bool escaped = false;
  for (const char c : text) {
    if (c == '\'' || c == '\\') out += c;
    escaped = escaped || c == '\\';
    out += c;
  }
  return (escaped ? " E'" : "'") + out + "'";
}

std::string ident(std::string_view name) {
  std::string out = "\"";
  for (const char c : name) {
    if (c == '"') out += c;
    out += c;
  }
  return out + "\"";
}

}  // namespace midstream::postgres
