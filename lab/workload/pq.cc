#include "lab/workload/pq.h"

#include <fmt/format.h>
#include <libpq-fe.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/text.h"
#include "sys/stream.h"

namespace midstream::lab {
namespace {

using Answer = std::unique_ptr<PGresult, decltype(&::PQclear)>;

std::string one_line(const char* text) {
  std::string out(trim(text == nullptr ? "" : text));
  std::replace(out.begin(), out.end(), '\n', ' ');
  return out;
}

std::unexpected<Error> statement_error(const PGresult* answer) {
  const char* state_text = ::PQresultErrorField(answer, PG_DIAG_SQLSTATE);
  const std::string state = state_text == nullptr ? "" : state_text;
  // Data, constraint and syntax errors stay what they are; the rest (read-only, denied, shutting down, out of
  // connections, serialisation) is the server's state, which changes. 42501: rights come and go with a fence.
  const bool wrong =
      state.starts_with("22") || state.starts_with("23") || (state.starts_with("42") && state != "42501");
  return failure(wrong ? ErrorKind::refused : ErrorKind::retry,
                 fmt::format("{} ({})", one_line(::PQresultErrorMessage(answer)), state));
}

Rows rows_of(const PGresult* answer) {
  Rows out;
  const int columns = ::PQnfields(answer);
  for (int r = 0; r < ::PQntuples(answer); ++r) {
    std::vector<std::optional<std::string>> row;
    for (int c = 0; c < columns; ++c) {
      if (::PQgetisnull(answer, r, c)) {
        row.emplace_back();
      } else {
        row.emplace_back(
            std::string(::PQgetvalue(answer, r, c), static_cast<std::size_t>(::PQgetlength(answer, r, c))));
      }
    }
    out.rows.push_back(std::move(row));
  }
  const std::string affected = ::PQcmdTuples(const_cast<PGresult*>(answer));
  if (!affected.empty()) out.affected = std::stoll(affected);
  return out;
}

struct Options {
  explicit Options(const std::string& conninfo) : list(::PQconninfoParse(conninfo.c_str(), &message)) {}
  ~Options() {
    ::PQconninfoFree(list);
    ::PQfreemem(message);
  }
  Options(const Options&) = delete;
  Options& operator=(const Options&) = delete;

  char* message = nullptr;
  PQconninfoOption* list;
};

// libpq's message may quote the value that it stumbled on, a password among others.
std::unexpected<Error> bad_conninfo() {
  return refused("the database's connection string is malformed",
                 "write it as \"host=NAME dbname=NAME user=NAME\"");
}

}  // namespace

void PgConnection::Closer::operator()(pg_conn* connection) const {
  ::PQfinish(connection);
}

Result<PgConnection> PgConnection::connect_one(const std::string& conninfo, const std::string& address,
                                               Deadline deadline, const std::stop_token& stop) {
  const Options options(conninfo);
  if (options.list == nullptr) return bad_conninfo();
  std::vector<const char*> names;
  std::vector<const char*> values;
  for (const auto* option = options.list; option->keyword != nullptr; ++option) {
    if (option->val == nullptr || (!address.empty() && std::strcmp(option->keyword, "hostaddr") == 0))
      continue;
    names.push_back(option->keyword);
    values.push_back(option->val);
  }
  if (!address.empty()) {
    names.push_back("hostaddr");
    values.push_back(address.c_str());
  }
  names.push_back(nullptr);
  values.push_back(nullptr);
  std::unique_ptr<pg_conn, Closer> made(::PQconnectStartParams(names.data(), values.data(), 0));
  if (!made) return retry("libpq has no memory for a connection");
  ::PQsetNoticeProcessor(
      made.get(), [](void*, const char*) {}, nullptr);
  auto state = PGRES_POLLING_WRITING;
  while (::PQstatus(made.get()) != CONNECTION_BAD) {
    CHECK_OK(
        wait_fd(::PQsocket(made.get()), state == PGRES_POLLING_READING ? POLLIN : POLLOUT, deadline, stop));
    state = ::PQconnectPoll(made.get());
    if (state == PGRES_POLLING_OK) return PgConnection(std::move(made));
    if (state == PGRES_POLLING_FAILED) break;
  }
  return retry(fmt::format("cannot connect: {}", one_line(::PQerrorMessage(made.get()))));
}

Result<PgConnection> PgConnection::connect(const std::string& conninfo,
                                           const std::vector<std::string>& addresses, Deadline deadline,
                                           const std::stop_token& stop) {
  if (addresses.empty()) return connect_one(conninfo, "", deadline, stop);
  Error last;
  for (std::size_t i = 0; i < addresses.size(); ++i) {
    const bool is_last = i + 1 == addresses.size();
    auto made = connect_one(conninfo, addresses[i], is_last ? deadline : deadline.sooner(Millis(2000)), stop);
    if (made || made.error().kind == ErrorKind::refused) return made;
    last = std::move(made).error();
  }
  return std::unexpected(std::move(last));
}

Result<> PgConnection::send(const std::string& sql, const std::vector<std::string>& params, Deadline deadline,
                            const std::stop_token& stop) {
  std::vector<const char*> values;
  for (const auto& param : params) values.push_back(param.c_str());
  auto* const raw = connection_.get();
  ::PQsetnonblocking(raw, 1);
  if (!::PQsendQueryParams(raw, sql.c_str(), static_cast<int>(values.size()), nullptr, values.data(), nullptr,
                           nullptr, 0)) {
    return failure(ErrorKind::unknown, fmt::format("cannot send: {}", one_line(::PQerrorMessage(raw))));
  }
  while (true) {
    const int flushed = ::PQflush(raw);
    if (flushed < 0)
      return failure(ErrorKind::unknown, fmt::format("cannot send: {}", one_line(::PQerrorMessage(raw))));
    if (flushed == 0) return {};
    CHECK_OK(wait_fd(::PQsocket(raw), POLLOUT, deadline, stop));
  }
}

Result<Rows> PgConnection::exec(const std::string& sql, const std::vector<std::string>& params,
                                Deadline deadline, const std::stop_token& stop) {
  auto* const raw = connection_.get();
  const auto lost = [&](std::string why) {
    dead_ = true;
    return failure(ErrorKind::unknown, std::move(why));
  };
  if (dead_) return lost("the database connection was lost before");
  if (auto sent = send(sql, params, deadline, stop); !sent) return lost(sent.error().what);
  Result<Rows> out = Rows();
  while (true) {
    while (::PQisBusy(raw)) {
      if (auto ready = wait_fd(::PQsocket(raw), POLLIN, deadline, stop); !ready)
        return lost(ready.error().what);
      if (!::PQconsumeInput(raw)) return lost(one_line(::PQerrorMessage(raw)));
    }
    const Answer answer(::PQgetResult(raw), &::PQclear);
    if (!answer) break;
    const auto status = ::PQresultStatus(answer.get());
    if (status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK) {
      out = rows_of(answer.get());
    } else {
      out = statement_error(answer.get());
    }
  }
  // A FATAL answer and its closed connection: what the statement did is not known.
  if (::PQstatus(raw) == CONNECTION_BAD)
    return lost(out ? "the database connection was lost" : out.error().what);
  return out;
}

Result<std::string> conninfo_host(const std::string& conninfo) {
  const Options options(conninfo);
  if (options.list == nullptr) return bad_conninfo();
  for (const auto* option = options.list; option->keyword != nullptr; ++option) {
    if (std::strcmp(option->keyword, "host") != 0 || option->val == nullptr) continue;
    const std::string host = option->val;
    return host.starts_with('/') ? std::string() : host;
  }
  return std::string();
}

}  // namespace midstream::lab
