// A few requests of the gate's own on a session's connection to a server, between two of the client's: what comes back is the
// gate's, and the client sees nothing of it but what the server may say at any time. Sans-I/O.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gate/scanner.h"

namespace midstream::gate {

// The name under which the question of belongings.h stays prepared in a session; all names of the gate's begin with it.
inline constexpr std::string_view kOwnStatement = "midstream_gate_asks";

// One statement, in a way that leaves the session's unnamed statement alone; a Sync is to follow. `describe`: its result is told, and it is not run.
std::string aside(std::string_view sql, bool describe = false);

class Exchange {
 public:
  using Row = std::vector<std::optional<std::string>>;
  struct Result {
    std::string tag;
    std::vector<Row> rows;
    std::string copied;
  };
  // `requests`: whole messages that are answered by `answers` ReadyForQuery. `most_results`: so many bytes of results are kept, one by one; 0:
  // none are.
  Exchange(std::string requests, int answers, std::size_t most_results = 0) : out_(std::move(requests)), left_(answers), most_results_(most_results) {}
  // One more round, once this one is done: what was learned in it is forgotten, but for what concerns the client.
  void again(Exchange&& next);

  // What is still to be sent; the caller takes off its front what it could send.
  std::string& to_send() { return out_; }
  // Goes through what the server sent, and takes off the front what belongs to the exchange.
  void from_server(std::string_view& bytes);
  // What a server says to which nothing was asked: `bytes` are gone through to their end.
  void overhear(std::string_view& bytes);
  bool between_messages() const { return scanner_.between(); }

  bool done() const { return left_ == 0 || broken_; }
  // The first error, in the server's words; "" if there was none.
  const std::string& error() const { return error_; }
  const std::string& sqlstate() const { return sqlstate_; }  // of that error
  // The server ends the session: its ErrorResponse, whole; or it does not speak the protocol.
  bool broken() const { return broken_; }
  const std::string& fatal() const { return fatal_; }
  // NULL is read as "".
  const std::vector<std::vector<std::string>>& rows() const { return rows_; }
  // Of each statement that has completed, where they are kept; what Describe told of results; what notices said.
  const std::vector<Result>& results() const { return results_; }
  const std::vector<std::string>& descriptions() const { return descriptions_; }
  const std::vector<std::string>& notices() const { return notices_; }
  // Notifications that came meanwhile, in their order: the client's.
  std::string take_for_client() { return std::exchange(for_client_, {}); }
  // Settings that the server reported meanwhile.
  const std::map<std::string, std::string>& parameters() const { return parameters_; }
  char transaction() const { return transaction_; }

 private:
  void go_through(std::string_view& bytes, bool all);
  void said(const Message& message);
  void failed(const Message& message);
  void row(std::string_view body);
  void result(const Message& message);
  std::string out_;
  int left_;
  std::size_t most_results_, kept_ = 0;
  Scanner scanner_{Sender::server, 1u << 20};
  bool broken_ = false;
  char transaction_ = 'I';
  std::string error_, sqlstate_, fatal_;
  std::string for_client_;
  std::vector<std::vector<std::string>> rows_;
  Result under_way_;
  std::vector<Result> results_;
  std::vector<std::string> descriptions_, notices_;
  std::map<std::string, std::string> parameters_;
};

}  // namespace midstream::gate
