/* A Triton backend that takes tensors and leaves them unread: what is left of a request's time is its hand-over.
 *
 * Each row of `bytes` INT64 [rows, 1] says how many bytes of the request's first input came for that row. It
 * answers in the execution that it is given, holds no state and keeps no thread. Nothing here may read or
 * copy a payload.
 *
 * Only the functions that it calls are declared, from Triton's public backend ABI 1.x, so that no headers are
 * needed; the server that loads it resolves them.
 */

#define _POSIX_C_SOURCE 199309L /* clock_gettime */

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

typedef struct TRITONSERVER_Error TRITONSERVER_Error;
typedef struct TRITONBACKEND_Input TRITONBACKEND_Input;
typedef struct TRITONBACKEND_ModelInstance TRITONBACKEND_ModelInstance;
typedef struct TRITONBACKEND_Output TRITONBACKEND_Output;
typedef struct TRITONBACKEND_Request TRITONBACKEND_Request;
typedef struct TRITONBACKEND_Response TRITONBACKEND_Response;

/* The enumerations' values, as the ABI fixes them. */
enum { TYPE_INT64 = 9 };
enum { MEMORY_CPU = 0, MEMORY_GPU = 2 };
enum { ERROR_INTERNAL = 1 };
enum { RELEASE_ALL = 1 };
enum { COMPLETE_FINAL = 1 };

TRITONSERVER_Error* TRITONSERVER_ErrorNew(int code, const char* message);
void TRITONSERVER_ErrorDelete(TRITONSERVER_Error* error);

TRITONSERVER_Error* TRITONBACKEND_RequestInputByIndex(
    TRITONBACKEND_Request* request, uint32_t index, TRITONBACKEND_Input** input);
TRITONSERVER_Error* TRITONBACKEND_InputProperties(
    TRITONBACKEND_Input* input, const char** name, int* data_type, const int64_t** shape,
    uint32_t* axes, uint64_t* byte_size, uint32_t* buffer_count);
TRITONSERVER_Error* TRITONBACKEND_RequestRelease(TRITONBACKEND_Request* request, uint32_t flags);
TRITONSERVER_Error* TRITONBACKEND_ResponseNew(
    TRITONBACKEND_Response** response, TRITONBACKEND_Request* request);
TRITONSERVER_Error* TRITONBACKEND_ResponseOutput(
    TRITONBACKEND_Response* response, TRITONBACKEND_Output** output, const char* name,
    int data_type, const int64_t* shape, uint32_t axes);
TRITONSERVER_Error* TRITONBACKEND_OutputBuffer(
    TRITONBACKEND_Output* output, void** buffer, uint64_t byte_size, int* memory, int64_t* memory_id);
TRITONSERVER_Error* TRITONBACKEND_ResponseSend(
    TRITONBACKEND_Response* response, uint32_t flags, TRITONSERVER_Error* error);
TRITONSERVER_Error* TRITONBACKEND_ModelInstanceReportStatistics(
    TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request* request, bool success,
    uint64_t began_ns, uint64_t compute_began_ns, uint64_t compute_ended_ns, uint64_t ended_ns);
TRITONSERVER_Error* TRITONBACKEND_ModelInstanceReportBatchStatistics(
    TRITONBACKEND_ModelInstance* instance, uint64_t rows,
    uint64_t began_ns, uint64_t compute_began_ns, uint64_t compute_ended_ns, uint64_t ended_ns);

/* Hands an error on to whoever answers the request. */
#define TRY(call)                        \
  do {                                   \
    TRITONSERVER_Error* error = (call);  \
    if (error != NULL) {                 \
      return error;                      \
    }                                    \
  } while (0)

static uint64_t now_ns(void)
{
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void drop(TRITONSERVER_Error* error)
{
  if (error != NULL) {
    TRITONSERVER_ErrorDelete(error);
  }
}

/* Fills the response's one output from the request's first input; `rows` gets the length of its batch axis. */
static TRITONSERVER_Error* fill(
    TRITONBACKEND_Request* request, TRITONBACKEND_Response* response, int64_t* rows)
{
  TRITONBACKEND_Input* input;
  const int64_t* shape;
  uint32_t axes;
  uint64_t taken;
  TRY(TRITONBACKEND_RequestInputByIndex(request, 0, &input));
  TRY(TRITONBACKEND_InputProperties(input, NULL, NULL, &shape, &axes, &taken, NULL));
  *rows = axes > 0 ? shape[0] : 1;

  TRITONBACKEND_Output* output;
  const int64_t answer_shape[] = {*rows, 1};
  void* buffer;
  int memory = MEMORY_CPU;
  int64_t memory_id = 0;
  TRY(TRITONBACKEND_ResponseOutput(response, &output, "bytes", TYPE_INT64, answer_shape, 2));
  TRY(TRITONBACKEND_OutputBuffer(
      output, &buffer, (uint64_t)*rows * sizeof(int64_t), &memory, &memory_id));
  if (memory == MEMORY_GPU) {
    return TRITONSERVER_ErrorNew(ERROR_INTERNAL, "the sink answers into host memory only");
  }
  for (int64_t row = 0; row < *rows; row++) {
    ((int64_t*)buffer)[row] = (int64_t)taken / *rows;
  }
  return NULL;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request** requests, uint32_t count)
{
  const uint64_t began_ns = now_ns();
  uint64_t all_rows = 0;
  for (uint32_t place = 0; place < count; place++) {
    TRITONBACKEND_Response* response = NULL;
    int64_t rows = 1;
    TRITONSERVER_Error* error = TRITONBACKEND_ResponseNew(&response, requests[place]);
    const bool made = error == NULL;
    if (made) {
      error = fill(requests[place], response, &rows);
    }
    const bool success = error == NULL;
    all_rows += (uint64_t)rows;
    if (made) {
      drop(TRITONBACKEND_ResponseSend(response, COMPLETE_FINAL, error));
    }
    drop(error);
    const uint64_t ended_ns = now_ns();
    drop(TRITONBACKEND_ModelInstanceReportStatistics(
        instance, requests[place], success, began_ns, began_ns, ended_ns, ended_ns));
    drop(TRITONBACKEND_RequestRelease(requests[place], RELEASE_ALL));
  }
  const uint64_t ended_ns = now_ns();
  drop(TRITONBACKEND_ModelInstanceReportBatchStatistics(
      instance, all_rows, began_ns, began_ns, ended_ns, ended_ns));
  return NULL;
}
