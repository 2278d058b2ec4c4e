// PostgreSQL's client library, loaded at run time: only database hosts have it, and the agent runs
// everywhere.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "sys/clock.h"

struct pg_conn;
struct pg_result;

namespace midstream::postgres {

// What one statement gave. Owns libpq's result.
class Rows {
 public:
  explicit Rows(pg_result* result) : result_(result) {}
  Rows(Rows&& other) noexcept : result_(std::exchange(other.result_, nullptr)) {}
  Rows& operator=(Rows&& other) noexcept {
    std::swap(result_, other.result_);
    return *this;
  }
  ~Rows();

  bool none() const { return result_ == nullptr; }
  bool copying() const;  // the answer to a COPY that has begun
  pg_result* raw() const { return result_; }
  int size() const;
  std::int64_t affected() const;  // rows that an INSERT, UPDATE, DELETE or COPY changed
  bool is_null(int row, int column) const;
  std::string text(int row, int column) const;  // "" for NULL
  std::int64_t number(int row, int column) const;
  bool truth(int row, int column) const;
  std::vector<std::string> column(int column) const;

 private:
  pg_result* result_ = nullptr;
};

// An error of the server, or of the connection to it (`sqlstate` is empty then).
struct SqlError {
  std::string sqlstate;
  std::string message;  // the primary message only: details and statements may hold data
  bool connection_lost = false;
  bool out_of_time = false;  // cancelled by us: deadline or stop request
};

using Params = std::vector<std::optional<std::string>>;

// One connection. For one thread at a time. Never writes a secret to the server's log: every session has the
// settings that log statements off from its first packet on (they need a superuser; `quiet` = false for
// others).
class Session {
 public:
  struct Target {
    std::string host;  // a directory (unix socket) or a numeric address
    std::uint16_t port = 5432;
    std::string database;
    std::string user;
    std::string password;
    std::string application = "midstream";
    std::string os_user;  // act as this OS user while connecting; "" for none
    bool quiet = true;
    bool replication = false;  // a session that takes replication commands (and simple queries) only
    std::string options;       // more of "-c name=value"
  };
  static std::expected<Session, SqlError> login(const Target& target, Deadline deadline, const std::stop_token& stop);
  static Result<Session> connect(const Target& target, Deadline deadline, const std::stop_token& stop);
  Session(Session&& other) noexcept : conn_(std::exchange(other.conn_, nullptr)) {}
  Session& operator=(Session&& other) noexcept {
    std::swap(conn_, other.conn_);
    return *this;
  }
  ~Session();

  // One statement with parameters ($1 ..), or, without parameters, several at once (the last one's rows).
  // At the deadline or stop request the statement is cancelled on the server too.
  std::expected<Rows, SqlError> query(const std::string& sql, const Params& params, Deadline deadline,
                                      const std::stop_token& stop);
  // The same with the error as an Error: retry for what passes, refused for what somebody must change,
  // unknown where the connection went while the statement ran.
  Result<Rows> run(const std::string& sql, const Params& params, Deadline deadline, const std::stop_token& stop);

  // COPY ... TO STDOUT or FROM STDIN, begun. Then read_copy until it is false, or put_copy and end_copy; a session that is
  // left in between is of no more use. Whatever fails gives the server's own error.
  std::expected<void, SqlError> begin_copy(const std::string& sql, Deadline deadline, const std::stop_token& stop);
  // Appends to `buffer` until about `most` bytes have come, or all. False: that was all, and it ended well.
  std::expected<bool, SqlError> read_copy(std::string& buffer, std::size_t most, Deadline deadline,
                                          const std::stop_token& stop);
  std::expected<void, SqlError> put_copy(std::string_view data, Deadline deadline, const std::stop_token& stop);
  // How many rows came.
  std::expected<std::int64_t, SqlError> end_copy(Deadline deadline, const std::stop_token& stop);

  bool idle() const;  // connected and in no transaction
  int socket() const;
  int pid() const;
  int server_version() const;  // 150020
  // The SCRAM-SHA-256 verifier of `password`, made here: the password itself never reaches the server.
  Result<std::string> verifier(const std::string& user, const std::string& password);

 private:
  explicit Session(pg_conn* conn) : conn_(conn) {}
  SqlError error_now() const;
  std::expected<void, SqlError> wait_io(short events, Deadline deadline, const std::stop_token& stop);
  std::expected<Rows, SqlError> collect(Deadline deadline, const std::stop_token& stop);
  pg_conn* conn_ = nullptr;
};

Error to_error(const SqlError& error, std::string_view doing);

// SQL literals and names.
std::string quote(std::string_view text);
std::string ident(std::string_view name);

}  // namespace midstream::postgres
