with

loaded_files as (

    select
        load_id,
        file_number,
        source_id

    from {{ source('raw', 'loaded_files') }}

)

select * from loaded_files
