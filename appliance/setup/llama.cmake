# Read by CMake right after the first project() of llama-cpp-python (CMAKE_PROJECT_TOP_LEVEL_INCLUDES).
# It narrows the build to what the Python package loads: libllama and the three ggml libraries under it.

# llama-common is a third of the work and nothing loads it. The project forces it on in the cache; with its policy CMP0126
# a variable of this scope wins over the cache.
set(LLAMA_BUILD_COMMON OFF)

function(plugsky_narrow_llama)
    # The CPU kernels: one library linked in, or with GGML_BACKEND_DL one module per CPU family, of which the fastest that
    # runs is loaded when a process starts. Upstream's wheel leaves the modules out.
    set(kernels ggml-cpu)
    if(GGML_BACKEND_DL)
        get_property(kernels CACHE GGML_AVAILABLE_BACKENDS PROPERTY VALUE)
        foreach(module ${kernels})
            install(TARGETS ${module} LIBRARY DESTINATION ${SKBUILD_PLATLIB_DIR}/llama_cpp/lib)
            set_target_properties(${module} PROPERTIES INSTALL_RPATH "$ORIGIN" BUILD_WITH_INSTALL_RPATH TRUE)
        endforeach()
    endif()

    # One file per library: with a version each is installed three times, since a wheel turns links into copies.
    set_property(TARGET llama ggml ggml-base ${kernels} PROPERTY VERSION)
    set_property(TARGET llama ggml ggml-base ${kernels} PROPERTY SOVERSION)

    # Upstream compiles the model files as unity sources; its core files hold as well, and parse their headers once per eight.
    get_target_property(sources llama SOURCES)
    get_target_property(folder llama SOURCE_DIR)
    list(FILTER sources INCLUDE REGEX "^(llama|unicode).*\\.cpp$")
    list(TRANSFORM sources PREPEND "${folder}/")
    set_source_files_properties(${sources} TARGET_DIRECTORY llama PROPERTIES SKIP_UNITY_BUILD_INCLUSION OFF)
    set_property(TARGET llama PROPERTY UNITY_BUILD_BATCH_SIZE 8)
endfunction()

cmake_language(DEFER CALL plugsky_narrow_llama)
